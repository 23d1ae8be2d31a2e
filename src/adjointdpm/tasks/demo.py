"""The demo, with the bundled model alone: a word for a mood, a style, and a fooled classifier."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.metrics.subject_recognition import Recogniser, SubjectJudge
from adjointdpm.optimization.loop import Interrupted
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.report import write_report
from adjointdpm.runs.storyboard import Band, write_storyboard
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.task import audit
from adjointdpm.tasks.config import check_counts
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.tasks.stylize import StylizeConfig, stylize

TOKEN = "<dusk>"
# The twenty one-word concepts (singular, countable) that `training/evaluate.py` finds drawn best,
# shuffled by random.Random(0).
TRAINING = ("frog", "pineapple", "parrot", "owl", "bear", "penguin", "koala", "cat")
HELD_OUT = (
    "cookie",
    "duck",
    "crab",
    "dolphin",
    "cow",
    "tiger",
    "crocodile",
    "panda",
    "doughnut",
    "carrot",
    "lion",
    "lemon",
)
# Prompts whose pictures an ImageNet classifier gets right; it was not trained on drawings, and
# misreads most.
AUDITED = [
    "a noto emoji of a banana",
    "a twemoji emoji of a broccoli",
    "a noto emoji of a dog",
    "a twemoji emoji of a frog",
    "a noto emoji of a lemon",
    "a noto emoji of a penguin",
    "a twemoji emoji of a strawberry",
    "a twemoji emoji of a hot dog",
]
STYLES = ("noto", "twemoji", "fluent")
_LEAD = (
    "A word learned from a number, a style learned from one picture, and a classifier fooled by a "
    "nudge of the noise: all by sending a gradient back through the sampler of the bundled model. "
    f"First the word, `{TOKEN}`."
)

Report = Callable[[str, int, int, str], None]  # part, done, of how many, what there is to say


@dataclass(frozen=True)
class Parts:
    """The settings of the demo's parts; None leaves a part out.

    Args:
        embed: a token for a colour mood.
        stylize: a LoRA for a drawn pattern.
        audit: adversarial noise.

    """

    embed: EmbedConfig
    stylize: StylizeConfig | None
    audit: AuditConfig | None

    @property
    def artefacts(self) -> tuple[str, ...]:
        """What the first part leaves, and the other parts' run folders."""
        return (*self.embed.artefacts, "stylize/", "audit/")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo does.

    Args:
        gradient: the gradient method: exact, or adjoint (the report then states its error against
            exact). The style differentiates the last steps, as `stylize` does, unless another
            method than exact is asked for.
        seed: fixes everything random.
        iterations: optimiser steps of the word; two and a half times as many for the style.
        steps: sampler steps that the gradient runs through.
        only_embed: learn the word alone: half the time.

    """

    gradient: str = "exact"
    seed: int = 0
    iterations: int = 12
    steps: int = 50
    only_embed: bool = False

    def parts(self) -> Parts:
        """The settings of each part: the style's are those of `stylize`, with a guidance of 5.

        Raises:
            InvalidInputError, UnknownNameError: a setting is out of range.

        """
        check_counts(self, "iterations", "steps")
        common: dict[str, Any] = {
            "guidance_scale": 5.0,
            "gradient": self.gradient,
            "seed": self.seed,
        }
        learning = common | {
            "prompts": prompts_of(TRAINING),
            "preservation": 0.2,
            "optimizer": "adam",
            "backtrack": 0,
            "tracker": [],
        }
        fewer_steps = max(2, self.steps * 2 // 5)
        embed = EmbedConfig(
            token=TOKEN,
            initial="gray",
            template="{prompt} on a {token} background",
            metric=["color:mood=dusk"],
            held_out=prompts_of(HELD_OUT),
            held_out_seeds=1,
            steps=self.steps,
            iterations=self.iterations,
            lr=0.05,
            lr_schedule="constant",
            batch=2,
            max_norm=1.0,
            validation=4,
            validate_every=4,
            patience=2,
            **learning,
        )
        if self.only_embed:
            return Parts(embed, None, None)
        stylize = StylizeConfig(
            style="style.png",
            prompts=prompts_of(TRAINING),
            held_out=prompts_of(HELD_OUT[:8]),
            steps=fewer_steps,
            iterations=self.iterations * 5 // 2,
            held_out_seeds=1,
            gradient="" if self.gradient == "exact" else self.gradient,
            guidance_scale=5.0,
            seed=self.seed,
            tracker=[],
        )
        audit = AuditConfig(
            prompts=AUDITED,
            budget=[0.2],
            clean_seeds=5,
            iterations=self.iterations,
            steps=fewer_steps,
            random_search=False,
            **common,
        )
        return Parts(embed, stylize, audit)


def demo(
    model: Any,
    parts: Parts,
    folder: RunFolder,
    *,
    command: str = "",
    resume: bool = False,
    report: Report = lambda part, done, total, text: None,
) -> dict[str, Any]:
    """Run the parts, and draw the picture that tells the story.

    The first part writes into `folder` itself, the others into run folders inside it. Content is
    judged by the bundled judge, which has no part in any metric.

    Returns:
        What `result.json` holds: the first part's figures, all costs, a summary of each part.

    Raises:
        Interrupted: a signal arrived. Only the first part can be resumed; the others start anew.

    """
    judge, title = SubjectJudge(Judge.load()), f"learning {TOKEN}"
    report(title, 0, parts.embed.iterations, "drawing the untouched model's pictures")
    result = embed(
        model,
        parts.embed,
        folder,
        task="demo",
        command=command,
        recognise=judge,
        resume=resume,
        on_record=_tell_record(report, title, parts.embed.iterations),
    )
    bands = [Band(folder, result, {"before": "untouched", "after": f"with {TOKEN}"})]
    runs, summaries = [result], []
    for name, run in (("stylize", _stylize), ("audit", _audit)):
        config = getattr(parts, name)
        if config is None:
            continue
        part = _part(folder, name, config.artefacts)
        with _not_resumed(name):
            done, summary, band = run(model, config, part, command, judge, report)
        write_report(part)
        story = {key: done["story"][key] for key in ("title", "lead")}
        summaries.append({"folder": name, "summary": summary} | story)
        runs.append(done)
        bands.append(band)
    story = write_storyboard(bands, folder.path / "images" / "story.png")
    result |= {
        "parts": summaries,
        "storyboard": str(story.relative_to(folder.path)),
        "seconds": sum(run["seconds"] for run in runs),
        "network_calls": sum(run["network_calls"] for run in runs),
        "peak_memory_bytes": max(run["peak_memory_bytes"] for run in runs),
    }
    if summaries:
        lead = result["story"]["lead"]
        result["story"] |= {"title": "One gradient, three uses", "lead": f"{_LEAD} {lead}"}
    folder.write_result(result)
    return result


def _stylize(
    model: Any,
    config: StylizeConfig,
    part: RunFolder,
    command: str,
    judge: Recogniser,
    report: Report,
) -> tuple[dict[str, Any], str, Band]:
    """The second part: its result, what it found in words, and its rows of the picture."""
    part.write_images(["style"], reference_pattern()[None])
    style = part.path / "images" / "style.png"
    config = replace(config, style=str(style))
    show = _tell_record(report, "stylising", config.iterations)
    done = stylize(model, config, part, command=command, recognise=judge, on_record=show)
    held_out = done["held_out"]
    summary = (
        f"On held-out prompts the metric goes from {held_out['before']:.3f} to "
        f"{held_out['after']:.3f}; the judge finds the subject in "
        f"{held_out['recognised']['before']:.0%} of the pictures before and in "
        f"{held_out['recognised']['after']:.0%} after."
    )
    return done, summary, Band(part, done, {"after": "stylised"}, aside=style)


def _audit(
    model: Any,
    config: AuditConfig,
    part: RunFolder,
    command: str,
    judge: Recogniser,
    report: Report,
) -> tuple[dict[str, Any], str, Band]:
    """The third part, likewise."""
    done = audit(
        model,
        config,
        part,
        model_name="tiny",
        command=command,
        recognise=judge,
        report=lambda what, step, total: report("auditing", int(step), total, what),
    )
    (row,) = done["success"]
    summary = (
        f"With a budget of {row['budget']:g}, {row['rate']:.0%} of "
        f"{done['held_out']['examples']} pictures are misread while the judge still sees what the "
        f"prompt names."
    )
    views = {"before": "clean", f"budget_{row['budget']:g}": "adversarial"}
    return done, summary, Band(part, done, views, verdicts=True)


def _tell_record(report: Report, part: str, iterations: int) -> Callable[[dict[str, Any]], None]:
    """A callback that reports every record of the loop."""

    def show(record: dict[str, Any]) -> None:
        values = record.get("validation") or record["training"]
        report(part, record["iteration"], iterations, f"metric {values['metric']:.3f}")

    return show


def prompts_of(concepts: Sequence[str]) -> list[str]:
    """A prompt for each concept, in the bundled model's styles in turn."""
    return [
        f"a {STYLES[i % len(STYLES)]} emoji of {'an' if name[0] in 'aeiou' else 'a'} {name}"
        for i, name in enumerate(concepts)
    ]


def reference_pattern(side: int = 64) -> Float[Tensor, "3 side side"]:
    """The style reference, in [0, 1]: wavy stripes in ink and warm colours.

    It is drawn by a formula, so that it is nobody's picture.
    """
    y, x = torch.meshgrid(*[torch.linspace(0, 1, side)] * 2, indexing="ij")
    wave = x + 0.08 * torch.sin(2 * math.pi * 2 * y) + 0.35 * y
    stripes = 0.5 + 0.5 * torch.tanh(6 * torch.sin(2 * math.pi * 6 * wave))
    warm = torch.stack([0.95 - 0.15 * y, 0.62 - 0.3 * y, 0.2 + 0.1 * x])
    ink = torch.tensor([0.10, 0.12, 0.32]).view(3, 1, 1)
    return torch.lerp(ink.expand_as(warm), warm, stripes)


def _part(folder: RunFolder, name: str, artefacts: Sequence[str]) -> RunFolder:
    # Its files are made anew: an interrupted demo is resumed in its first part, which takes
    # longest.
    path = folder.path / name
    facts = {"task": name, "model": "tiny"}
    return RunFolder.open(path, facts, artefacts=artefacts, force=path.exists(), part=True)


@contextmanager
def _not_resumed(part: str) -> Iterator[None]:
    """Say of an interruption that the part is not resumed, as its own run would be."""
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(
            f"stopped in {part}; with --resume {TOKEN} is not learned again, but the parts after "
            f"it start anew"
        ) from stop
