"""The demo: with the bundled model alone, a word for a mood, the style of one picture, and how
easily a classifier is fooled.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.metrics.judge import Judge
from adjointdpm.metrics.subject_recognition import judge_prompts
from adjointdpm.optimization.loop import Interrupted, Settings
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.report import write_report
from adjointdpm.runs.storyboard import Band, write_storyboard
from adjointdpm.tasks.audit.task import AuditConfig, audit
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

Report = Callable[[str, int, int, str], None]  # part, done, of how many, what there is to say


@dataclass(frozen=True)
class DemoConfig:
    """The three parts' settings; they were chosen on training prompts.

    Args:
        embed: a token for a colour mood.
        stylize: a LoRA for a drawn pattern; None leaves it out.
        audit: adversarial noise; None leaves it out.

    """

    embed: EmbedConfig
    stylize: StylizeConfig | None
    audit: AuditConfig | None

    @property
    def artefacts(self) -> tuple[str, ...]:
        """What the first part leaves, and the other parts' run folders."""
        return (*self.embed.artefacts, "stylize/", "audit/")


def demo_config(
    gradient: str = "exact",
    seed: int = 0,
    iterations: int = 12,
    steps: int = 50,
    *,
    judges: bool = True,
) -> DemoConfig:
    """The demo's settings; without third-party networks (`judges`) only the first part is possible."""
    learning = DemoConfig(
        embed=EmbedConfig(
            token=TOKEN,
            initial="gray",
            metric=["color:mood=dusk"],
            prompts=prompts_of(TRAINING),
            held_out=prompts_of(HELD_OUT),
            template="{prompt} on a {token} background",
            steps=steps,
            guidance_scale=5.0,
            gradient=gradient,
            seed=seed,
            optimisation=Settings(
                iterations=iterations,
                batch=2,
                learning_rate=0.05,
                preservation=0.2,
                validate_every=4,
                seed=seed,
            ),
        ),
        stylize=None,
        audit=None,
    )
    if not judges:
        return learning
    return DemoConfig(
        embed=learning.embed,
        stylize=StylizeConfig(
            style="style.png",
            prompts=prompts_of(TRAINING),
            held_out=prompts_of(HELD_OUT[:8]),
            steps=max(2, steps * 2 // 5),
            guidance_scale=5.0,
            gradient=gradient,
            seed=seed,
            optimisation=Settings(
                iterations=iterations * 4 // 3,
                batch=2,
                learning_rate=1e-2,
                schedule="cosine",
                preservation=0.2,
                validate_every=max(1, iterations // 3),
                seed=seed,
            ),
        ),
        audit=AuditConfig(
            victim="efficientnet-lite0",
            prompts=AUDITED,
            budget=[0.2],
            clean_seeds=5,
            iterations=iterations,
            steps=max(2, steps * 2 // 5),
            guidance_scale=5.0,
            gradient=gradient,
            random_search=False,
            seed=seed,
        ),
    )


def demo(
    model: Any,
    config: DemoConfig,
    folder: RunFolder,
    *,
    command: str = "",
    resume: bool = False,
    report: Report = lambda part, done, total, text: None,
) -> dict[str, Any]:
    """Run the parts, each in a run folder of its own (the first in `folder` itself), and the
    picture that tells the story.

    Content is judged by the bundled judge, which has no part in any metric.

    Returns:
        What `result.json` holds: the first part's figures, costs of all parts, and a summary of
        each in `parts`.

    Raises:
        Interrupted: a signal arrived. Only the first part can be resumed; the others start anew.

    """
    judge = judge_prompts(Judge.load())
    bands: list[Band] = []

    def learning(part: str, iterations: int) -> Callable[[dict[str, Any]], None]:
        def show(record: dict[str, Any]) -> None:
            values = record.get("validation") or record["training"]
            report(part, record["iteration"], iterations, f"metric {values['metric']:.3f}")

        return show

    report(
        f"learning {TOKEN}",
        0,
        config.embed.optimisation.iterations,
        "drawing the untouched model's pictures",
    )
    result = embed(
        model,
        config.embed,
        folder,
        task="demo",
        command=command,
        recognise=judge,
        resume=resume,
        on_record=learning(f"learning {TOKEN}", config.embed.optimisation.iterations),
    )
    parts, runs = [], [result]
    bands.append(Band(folder, result, {"before": "untouched", "after": f"with {TOKEN}"}))
    if config.stylize is not None:
        part = _part(folder, "stylize", config.stylize.artefacts)
        part.write_images(["style"], reference_pattern()[None])
        settings = StylizeConfig(
            **{**vars(config.stylize), "style": str(part.path / "images" / "style.png")}
        )
        show = learning("stylising", settings.optimisation.iterations)
        with _not_resumed("stylize"):
            done = stylize(model, settings, part, command=command, recognise=judge, on_record=show)
        write_report(part)
        parts.append(_summary("stylize", done, _learning_summary(done)))
        runs.append(done)
        bands.append(
            Band(part, done, {"after": "stylised"}, aside=part.path / "images" / "style.png")
        )
    if config.audit is not None:
        part, attacked = _part(folder, "audit", config.audit.artefacts), config.audit
        with _not_resumed("audit"):
            done = audit(
                model,
                attacked,
                part,
                model_name="tiny",
                command=command,
                recognise=judge,
                report=lambda what, step, total: report("auditing", step, total, what),
            )
        write_report(part)
        (row,) = done["success"]
        parts.append(
            _summary(
                "audit",
                done,
                f"With a budget of {row['budget']:g}, {row['rate']:.0%} of "
                f"{done['held_out']['examples']} pictures are misread while the judge still sees "
                f"what the prompt names.",
            )
        )
        runs.append(done)
        bands.append(
            Band(
                part,
                done,
                {"before": "clean", f"budget_{row['budget']:g}": "adversarial"},
                verdicts=True,
            )
        )
    story = write_storyboard(bands, folder.path / "images" / "story.png")
    result |= {
        "parts": parts,
        "storyboard": str(story.relative_to(folder.path)),
        "seconds": sum(run["seconds"] for run in runs),
        "network_calls": sum(run["network_calls"] for run in runs),
        "peak_memory_bytes": max(run["peak_memory_bytes"] for run in runs),
    }
    if parts:
        result["story"] |= {
            "title": "One gradient, three uses",
            "lead": "A word learned from a number, a style learned from one picture, and a "
            "classifier fooled by a nudge of the noise: all by sending a gradient back through "
            f"the sampler of the bundled model. First the word, `{TOKEN}`. "
            f"{result['story']['lead']}",
        }
    folder.write_result(result)
    return result


def prompts_of(concepts: Sequence[str]) -> list[str]:
    """A prompt for each concept, in the bundled model's styles in turn."""
    return [
        f"a {STYLES[i % len(STYLES)]} emoji of {'an' if name[0] in 'aeiou' else 'a'} {name}"
        for i, name in enumerate(concepts)
    ]


def reference_pattern(side: int = 64) -> Float[Tensor, "3 side side"]:
    """The style reference, in [0, 1]: wavy stripes in ink and warm colours, drawn by a formula, so
    that it is nobody's picture.
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
    return RunFolder.open(path, facts, artefacts=artefacts, force=path.exists())


@contextmanager
def _not_resumed(part: str) -> Iterator[None]:
    """Let an interruption not promise what holds for such a part's own run alone."""
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(
            f"stopped in {part}; with --resume {TOKEN} is not learned again, but the parts after "
            f"it start anew"
        ) from stop


def _learning_summary(result: dict[str, Any]) -> str:
    held_out = result["held_out"]
    return (
        f"On held-out prompts the metric goes from {held_out['before']:.3f} to "
        f"{held_out['after']:.3f}; the judge finds the subject in "
        f"{held_out['recognised']['before']:.0%} of the pictures before and in "
        f"{held_out['recognised']['after']:.0%} after."
    )


def _summary(name: str, result: dict[str, Any], summary: str) -> dict[str, Any]:
    return {
        "folder": name,
        "title": result["story"]["title"],
        "lead": result["story"]["lead"],
        "summary": summary,
    }
