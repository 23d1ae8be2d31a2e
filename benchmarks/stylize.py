"""What a minute buys: the same style learned by several gradient methods.

`python -m benchmarks.stylize --page docs/stylize.md`

Every arm makes as many optimiser steps from the same start, on the same examples in the same
order: prompts of all familiar concepts but the held-out ones. The figures are of prompts and seeds
that no arm was trained on, drawn once at the end. The curve is of the validation pictures, against
the time that the optimisation took. `--tuning` is how settings were chosen: it trains on two thirds
of the training concepts with another seed, and measures on the other third.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure

from adjointdpm.metrics.subject_recognition import recogniser_for
from adjointdpm.pipelines import load
from adjointdpm.runs.folder import RunFolder, png
from adjointdpm.tasks.demo import HELD_OUT, prompts_of, reference_pattern
from adjointdpm.tasks.stylize import StylizeConfig, stylize
from benchmarks.common import (
    Page,
    PageOnly,
    has_results,
    machine,
    publish,
    read_results,
    run,
    table,
    tell,
    write_results,
)
from training.concepts import load_concepts

ARMS = ("exact", "adjoint", "truncated:last=5", "truncated:last=1")
STEPS = 20


@dataclass(frozen=True)
class Learning:
    """What is the same for all arms.

    Args:
        iterations, rate, preservation: of the optimisation.
        rank: of the LoRA; 0 learns all weights.
        held_out_seeds: pictures of each held-out prompt.
        tuning: whether to leave the held-out prompts alone.

    """

    iterations: int
    rate: float
    preservation: float
    rank: int
    held_out_seeds: int
    tuning: bool

    def run(self, gradient: str, style: Path, folder: Path) -> dict[str, Any]:
        """One arm: its `result.json` and its history."""
        training, held_out = concepts(self.tuning)
        more: dict[str, Any] = {"rank": self.rank} if self.rank else {"full": True}
        config = StylizeConfig(
            style=str(style),
            prompts=prompts_of(training),
            held_out=prompts_of(held_out),
            held_out_seeds=self.held_out_seeds,
            steps=STEPS,
            guidance_scale=5.0,
            gradient=gradient,
            **more,
            seed=7 if self.tuning else 0,
            iterations=self.iterations,
            batch=2,
            lr=self.rate,
            lr_schedule="cosine",
            preservation=self.preservation,
            validate_every=max(1, self.iterations // 5),
            patience=self.iterations,
            tracker=[],
        )
        return _learn(config, folder)


def concepts(tuning: bool) -> tuple[list[str], list[str]]:
    """Those to learn from and those to measure on."""
    known = [concept.name for concept in load_concepts() if concept.familiar]
    training = [name for name in known if name not in HELD_OUT]
    return (
        ([n for i, n in enumerate(training) if i % 3 < 2], training[2::3])
        if tuning
        else (training, list(HELD_OUT))
    )


def _learn(config: StylizeConfig, folder: Path) -> dict[str, Any]:
    run_folder = RunFolder.open(folder, {"arm": config.gradient})
    result = stylize(load("tiny"), config, run_folder, recognise=recogniser_for(config.held_out))
    return {"result": result, "history": run_folder.read_history()}


def rows(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The table, a row an arm."""
    lines = []
    for gradient, arm in found.items():
        result = arm["result"]
        held_out = result["held_out"]
        low, high = (end / held_out["before"] for end in held_out["interval"])
        top5 = [held_out["recognised"][view] for view in ("before", "after")]
        interval = held_out["recognised_interval"]["after"]
        lines.append(
            [
                f"`{gradient}`",
                f"{held_out['before']:.3f} → {held_out['after']:.3f}",
                f"{held_out['change'] / held_out['before']:+.0%} [{low:+.0%}, {high:+.0%}]",
                f"{top5[0]:.0%} → {top5[1]:.0%} [{interval[0]:.0%}, {interval[1]:.0%}]",
                f"{held_out['distinctness']:.2f}",
                f"{seconds(arm['history']) / 60:.1f}",
                f"{-held_out['change'] / held_out['before'] / (seconds(arm['history']) / 60):.1%}",
                f"{result['optimisation']['best_iteration']} of "
                f"{result['optimisation']['iterations']}",
            ]
        )
    return lines


def seconds(history: list[dict[str, Any]]) -> float:
    """What the optimiser steps took."""
    return sum(record.get("seconds", 0.0) for record in history)


def figure(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Validation metric against minutes."""
    sheet = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = sheet.subplots()
    for gradient, arm in found.items():
        spent, points = 0.0, []
        for record in arm["history"]:
            spent += record.get("seconds", 0.0)
            if "validation" in record:
                points.append((spent / 60, record["validation"]["metric"]))
        axes.plot(*zip(*points, strict=True), marker="o", label=gradient)
    axes.set(xlabel="minutes of optimisation", ylabel="Gram distance, validation", ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.savefig(path, dpi=120)


def report(content: dict[str, Any]) -> str:
    """The table of `results/stylize.json`, and a line on how it was made."""
    head = [
        "gradient",
        "Gram distance",
        "change, 95 % interval",
        "judge finds the subject",
        "distinctness",
        "minutes",
        "fall per minute",
        "kept iteration",
    ]
    setting = content["setting"]
    what = f"a LoRA of rank {setting['rank']}" if setting["rank"] else "all weights"
    return (
        f"{table(head, rows(content['arms']))}\n\nLearned: {what}; {setting['iterations']} "
        f"iterations of 2 pictures, learning rate {setting['rate']:g}, preservation "
        f"{setting['preservation']:g}, {STEPS} sampler steps; {content['machine']}."
    )


def main(
    iterations: int = 80,
    rate: Annotated[float, typer.Option(help="Of Adam.")] = 2e-4,
    preservation: float = 0.8,
    rank: Annotated[int, typer.Option(help="Of the LoRA; 0 learns all weights.")] = 0,
    held_out_seeds: int = 2,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Gradient methods. Repeatable.", show_default=", ".join(ARMS)),
    ] = None,
    tuning: Annotated[bool, typer.Option("--tuning", help="On training concepts alone.")] = False,
    name: Annotated[str, typer.Option(help="Of the file in results/.")] = "stylize",
    page: Page = None,
    picture: Annotated[Path | None, typer.Option(help="Where the curves are drawn.")] = None,
    page_only: PageOnly = False,
) -> None:
    """Run every arm that `results/NAME.json` does not hold, print the table, write that file."""
    if not page_only:
        learning = Learning(iterations, rate, preservation, rank, held_out_seeds, tuning)
        measure(learning, arm or ARMS, name)
    content = read_results(name)
    if picture is not None:
        figure(content["arms"], picture)
    publish(report(content), page)


def measure(learning: Learning, arms: Sequence[str], name: str) -> None:
    """Run every arm that `results/NAME.json` does not hold, and write that file after each."""
    # How intervals are made is part of it: those of results from before they were over prompts were
    # too narrow.
    setting = asdict(learning) | {"intervals": "over prompts"}
    former = read_results(name) if has_results(name) else {}
    found = former["arms"] if former.get("setting") == setting else {}
    with tempfile.TemporaryDirectory() as scratch:
        style = Path(scratch) / "style.png"
        style.write_bytes(png(reference_pattern()))
        for gradient in arms:
            if gradient not in found:
                tell(f"{gradient} …")
                folder = Path(scratch) / gradient.replace(":", "-")
                found[gradient] = learning.run(gradient, style, folder)
                write_results(name, {"setting": setting, "machine": machine(), "arms": found})


if __name__ == "__main__":
    run(main)
