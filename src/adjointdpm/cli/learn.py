"""`embed`, `stylize`, `align` and `guide`: commands that run the optimisation loop."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adjointdpm.cli.options import Flags, Run, command, load_model
from adjointdpm.cli.run_opening import opened_run, written_report
from adjointdpm.cli.terminal import (
    command_line,
    note,
    printable,
    progress_bar,
    quiet,
    show_records,
    tell,
)
from adjointdpm.errors import AdjointDPMWarning
from adjointdpm.tasks import align as align_task
from adjointdpm.tasks import embed as embed_task
from adjointdpm.tasks import guide as guide_task
from adjointdpm.tasks import stylize as stylize_task
from adjointdpm.tasks.align import AlignConfig
from adjointdpm.tasks.config import LearningConfig, settings_of
from adjointdpm.tasks.embed import EmbedConfig
from adjointdpm.tasks.guide_config import GuideConfig
from adjointdpm.tasks.stylize import StylizeConfig


@dataclass(frozen=True, kw_only=True)
class Watching:
    """How a run is watched.

    Args:
        previews: also keep pictures, and what was learned, of every look at the validation
            examples.

    """

    previews: bool = False


@command(EmbedConfig, Run, Watching)
def embed(flags: Flags) -> None:
    """Learn a token for an effect, or a thing, that only a metric knows.

    Stock diffusers loads the token.
    """
    config = flags.build(EmbedConfig)
    title = f"learning {config.token}"
    _learn(embed_task.embed, config, title, flags, on_choice=note)


@command(StylizeConfig, Run, Watching)
def stylize(flags: Flags) -> None:
    """Fine-tune towards the style of one reference picture.

    Stock diffusers loads the LoRA, or the weights.
    """
    config = flags.build(StylizeConfig)
    title = f"learning the style of {Path(config.style).name}"
    _learn(stylize_task.stylize, config, title, flags)


@command(AlignConfig, Run, Watching)
def align(flags: Flags) -> None:
    """Fine-tune for any metrics over many prompts, guarded against pleasing them alone.

    Stock diffusers loads the LoRA, or the weights.
    """
    config = flags.build(AlignConfig)
    title = f"aligning to {', '.join(config.metric)}"
    _learn(align_task.align, config, title, flags)


@command(GuideConfig, Run, Watching, panel="What to draw")
def guide(flags: Flags) -> None:
    """Optimise the noise or the embedding of one prompt for a metric.

    The pictures of all iterations are kept.
    """
    changes = {}
    # A flag stands for both that say the prompt: it overrides the one that --config says.
    for given, other, nothing in (("prompt", "prompts", []), ("prompts", "prompt", "")):
        if flags.source(given) == "COMMANDLINE" and flags.source(other) == "DEFAULT_MAP":
            changes = {other: nothing}
    config = flags.build(GuideConfig, **changes)
    _learn(guide_task.guide, config, "guiding", flags)


def _learn(
    task: Callable[..., dict[str, Any]],
    config: LearningConfig | GuideConfig,
    title: str,
    flags: Flags,
    **hooks: Callable[[str], None],
) -> None:
    """Check everything that is cheap to check, open the folder, learn, and say what came out."""
    quiet()
    from adjointdpm.metrics.subject_recognition import recogniser_for
    from adjointdpm.support.distributed import Processes

    metric, where = config.resolve_metric(), flags.build(Run)
    facts = {
        "task": task.__name__,
        "model": where.model,
        "dtype": where.dtype,
        "variant": where.variant,
    }
    with opened_run(where, facts | settings_of(config), config.artefacts) as opened:
        folder = replace(opened, previews=flags.build(Watching).previews)
        model = load_model(where.model, where.device, where.dtype, where.variant)
        prompts = [example.prompt for examples in config.sets() for example in examples]
        if where.model == "tiny" and Processes().is_main:
            _warn_of_unfamiliar(prompts)
        recognise = recogniser_for(prompts, where.model, optimised=metric.asks_judge)
        with progress_bar(visible=folder.writable) as progress:
            iterations = config.loop_settings().iterations
            bar = progress.add_task(
                printable(title),
                total=iterations,
                metric="drawing the untouched model's pictures",
            )
            result = task(
                model,
                config,
                folder,
                metric=metric,
                command=command_line(),
                recognise=recognise,
                resume=where.resume,
                on_record=show_records(progress, bar, iterations, metric.sign),
                **hooks,
            )
            progress.update(bar, completed=iterations)
        if Processes().is_main:
            learned = folder.path / result["artefact"]
            tell(f"{_summary(result)}Report: {written_report(folder)}\nLearned: {learned}")


def _warn_of_unfamiliar(prompts: list[str]) -> None:
    """Say which prompts the bundled model draws badly, before minutes are spent on them."""
    from adjointdpm.metrics.subject_recognition import unfamiliar

    if not (unknown := unfamiliar(prompts)):
        return
    shown = ", ".join(repr(prompt) for prompt in unknown[:_SHOWN])
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    warnings.warn(
        f"the bundled model has learned to draw 48 things only, such as a fox, a pizza or an owl "
        f"(pipelines/tiny/README.md in this package lists them), and these prompts name none: "
        f"{shown}{more}. Their pictures will mean little; write prompts of other things, or name a "
        f"--model of your own",
        AdjointDPMWarning,
        stacklevel=2,
    )


# The structure distance from the untouched picture up to which the bundled judge, where it can be
# asked, still finds nearly every subject of a guided picture. Of most pictures beyond, it does not.
_OTHER_DRAWING = 0.6
_SHOWN = 4  # prompts in a warning
#: Shares of new pictures, by the judge or by their resemblance, of which no guard takes the loss.
_LOST = {"recognised": 0.15, "resembling": 0.3}
_STRENGTH = {
    "you": "Strength {:g} of what was learned was kept, as you asked.",
    "guard": "Strength {:g} of what was learned was kept: the least that gains nearly as much as "
    "any within the guard's bound ({}).",
    "nothing": "Nothing of what was learned was kept (strength {:g}): the file holds the start. No "
    "part of it gains anything within the guard's bound ({}): see the curve in the report. "
    "--strength keeps as much as you say.",
    "default": "All of what was learned was kept (strength {:g}): no guard says what it costs. See "
    "the curve in the report, and --strength or --guard.",
}


def _passed(result: dict[str, Any]) -> str:
    """Who says whether pictures that no judge knows still show their subjects."""
    if result.get("guard"):
        return f"Only the guard says that they still show their subjects ({result['guard']})"
    return "No judge knows whether they still show their subjects"


def _beside_controls(result: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """What an existing word gets in the token's place, and whether what was learned is better."""
    lines = []
    for view, found in result["held_out"].get("since", {}).items():
        label = result["story"]["views"][view]
        alone = f"The {label} in its place gets {_number(own[view])} by itself"
        if found["change"] >= 0 or found["interval"][1] >= 0:
            lines.append(f"{alone}: what was learned is no better than that.")
        else:
            lines.append(f"{alone}.")
    return lines


def _number(value: float) -> str:
    """Three decimals, or three digits of a metric in a tiny unit."""
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.3g}"


def _summary(result: dict[str, Any]) -> str:
    """What was measured, in lines."""
    from adjointdpm.runs.own_sign import direction, in_own_sign

    held_out = result["held_out"]
    count = held_out["examples"]
    where = "On these pictures"
    if not held_out.get("same_examples"):
        prompts = held_out["prompts"]
        of = "one prompt" if prompts == 1 else f"{prompts} prompts"
        pictures = "a picture" if count == 1 else f"{count} pictures"
        where = f"On {pictures} of {of}, never used for learning"
    own = in_own_sign(result, ["before", "after", *result["held_out"].get("since", ())])["held_out"]
    lines = [
        f"{where}, {result['metric']['name']} goes from "
        f"{_number(own['before'])} to {_number(own['after'])} ({direction(result)})."
    ]
    if result["optimisation"]["best_iteration"] == 0:
        lines.append(
            "No iteration improved the objective, the metric with what is added to it: the start "
            "was kept."
        )
    elif (interval := held_out.get("interval")) and interval[1] >= 0:
        where = (
            f": the 95 % interval of the change goes from {_number(own['interval'][0])} to "
            f"{_number(own['interval'][1])}"
        )
        lines.append(f"That is no gain{where if count > 1 else ''}.")
    if again := result.get("gradient", {}).get("second_try"):
        lines.append(
            f"The first {again['after']} iterations gained nothing; then the run went on with "
            f"{again['using']}."
        )
    if (found := result.get("diagnosis")) is not None:
        lines.append(f"{found['what']} {found['change']}")
    lines += _beside_controls(result, own)
    if kept := result.get("strength"):
        how = "nothing" if kept["by"] == "guard" and kept["chosen"] == 0 else kept["by"]
        lines.append(_STRENGTH[how].format(kept["chosen"], kept.get("guard_name", "")))
    if "recognised" in held_out:
        shares = held_out["recognised"]
        lines.append(
            f"An independent judge finds the subject in {shares['before']:.0%} of the pictures "
            f"before and in {shares['after']:.0%} after."
        )
        if held_out.get("same_examples") and shares["after"] < shares["before"]:
            lines.append(
                "Look at the pictures: the report shows all on the way, where an earlier one may "
                "do, and another --seed begins with another drawing."
            )
    elif "resembling" in held_out:
        share = held_out["resembling"]["after"]
        lines.append(
            f"No judge knows these prompts. {share:.0%} of the pictures still resemble the "
            f"untouched ones of their prompts, by their lines; the report shows them."
        )
    elif (moved := held_out.get("structure_distance", 0.0)) > _OTHER_DRAWING:
        lines.append(
            f"The pictures are other drawings now: their structure distance from the untouched "
            f"ones is {moved:.2f} (0: the same lines; 1: none in common). {_passed(result)}, so "
            f"look at them; a higher --preservation or a lower --lr keeps more."
        )
    if _content_is_lost(held_out):
        lines.append(
            "That is content lost on prompts that nothing was learned from: more and more "
            "different --prompts show what a change costs; a smaller --strength, or a --template "
            "in which the token comes last, keeps more."
        )
    return "".join(f"{line}\n" for line in lines)


def _content_is_lost(held_out: dict[str, Any]) -> bool:
    """Whether new pictures lose more than any guard would have taken."""
    for name, most in _LOST.items():
        if name in held_out:
            shares = held_out[name]
            return shares["before"] - shares["after"] > most and not held_out.get("same_examples")
    return False
