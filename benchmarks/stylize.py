"""What a minute buys: the same LoRA for a style by several gradient methods: `python benchmarks/stylize.py --page docs/tasks.md`.

Every arm makes as many optimiser steps from the same start, on the same examples in the same order. The figures are of prompts and seeds
that no arm was trained on, drawn once at the end; the curve is of the validation pictures, against the time that the optimisation took.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from matplotlib.figure import Figure

from adjointdpm.intervals import share_interval
from adjointdpm.models import load
from adjointdpm.optimize import Settings
from adjointdpm.recognition import recogniser_for
from adjointdpm.run_folder import RunFolder, png
from adjointdpm.tasks.demo import HELD_OUT, TRAINING, prompts_of, reference_pattern
from adjointdpm.tasks.stylize import StylizeConfig, stylize
from common import RESULTS, fill, machine, table, write_json

ARMS = ("exact", "adjoint", "truncated:last=5", "truncated:last=1")


def run(gradient: str, style: Path, folder: Path, iterations: int, steps: int, held_out_seeds: int) -> dict[str, Any]:
    """One arm: its `result.json` and its history."""
    config = StylizeConfig(
        style=str(style),
        prompts=prompts_of(TRAINING),
        held_out=prompts_of(HELD_OUT),
        held_out_seeds=held_out_seeds,
        steps=steps,
        guidance_scale=5.0,
        gradient=gradient,
        optimisation=Settings(
            iterations=iterations,
            batch=2,
            learning_rate=1e-2,
            schedule="cosine",
            preservation=0.2,
            validate_every=max(1, iterations // 5),
            patience=iterations,
        ),
    )
    run_folder = RunFolder.open(folder, {"arm": gradient})
    result = stylize(load("tiny"), config, run_folder, recognise=recogniser_for(config.held_out))
    return {"result": result, "history": run_folder.read_history()}


def rows(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The table, a row an arm."""
    lines = []
    for gradient, arm in found.items():
        result = arm["result"]
        held_out, count = result["held_out"], result["held_out"]["examples"]
        low, high = (end / held_out["before"] for end in held_out["interval"])
        top5 = [held_out["recognised"][view] for view in ("before", "after")]
        interval = share_interval(round(top5[1] * count), count)
        lines.append(
            [
                f"`{gradient}`",
                f"{held_out['before']:.3f} → {held_out['after']:.3f}",
                f"{held_out['change'] / held_out['before']:+.0%} [{low:+.0%}, {high:+.0%}]",
                f"{top5[0]:.0%} → {top5[1]:.0%} [{interval[0]:.0%}, {interval[1]:.0%}]",
                f"{held_out['distinctness']:.2f}",
                f"{seconds(arm['history']) / 60:.1f}",
                f"{result['optimisation']['best_iteration']} of {result['optimisation']['iterations']}",
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


def main(
    iterations: int = 30,
    steps: int = 20,
    held_out_seeds: int = 2,
    arm: Annotated[list[str], typer.Option(help="Gradient methods.")] = list(ARMS),  # noqa: B006
    page: Annotated[Path | None, typer.Option(help="Page that the table is written into.")] = None,
    picture: Path = Path("docs/images/stylize-methods.png"),
) -> None:
    """Run every arm that `results/stylize.json` does not hold yet, print the table, and write that file."""
    stored, setting = RESULTS / "stylize.json", {"iterations": iterations, "steps": steps, "held_out_seeds": held_out_seeds}
    former = json.loads(stored.read_text()) if stored.exists() else {}
    found = former["arms"] if former.get("setting") == setting else {}
    with tempfile.TemporaryDirectory() as scratch:
        style = Path(scratch) / "style.png"
        style.write_bytes(png(reference_pattern()))
        for gradient in arm:
            if gradient not in found:
                typer.echo(f"{gradient} …", err=True)
                found[gradient] = run(gradient, style, Path(scratch) / gradient.replace(":", "-"), iterations, steps, held_out_seeds)
                write_json("stylize", {"setting": setting, "machine": machine(), "arms": found})
    head = ["gradient", "Gram distance", "change, 95 % interval", "judge finds the subject", "distinctness", "minutes", "kept iteration"]
    text = (
        table(head, rows(found))
        + f"\n\n{iterations} iterations of 2 pictures, {steps} sampler steps, on {json.loads(stored.read_text())['machine']}."
    )
    print(text)
    figure(found, picture)
    if page is not None:
        fill(page, text)


if __name__ == "__main__":
    typer.run(main)
