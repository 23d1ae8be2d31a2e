"""What few network VJPs cost in accuracy: `python benchmarks/few_vjps.py --page docs/few-vjps.md`.

Gradients of two losses with respect to noise and prompt embedding on the bundled model, by every method that saves VJPs, against the exact
ones of the same sampler steps.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

import adjointdpm as adj
from adjointdpm import metrics
from adjointdpm.gradients import GradientMethod
from adjointdpm.judge import Judge
from adjointdpm.models import load
from common import fill, machine, table, write_json

VJPS = (5, 10, 20, 35)
PROMPTS = {"a noto emoji of a fox": "fox", "a twemoji emoji of a hamburger": "hamburger", "a fluent emoji of a penguin": "penguin"}


def methods(steps: int) -> dict[str, tuple[int, GradientMethod]]:
    """By name: the number of VJPs that each makes, and the method."""
    found: dict[str, tuple[int, GradientMethod]] = {}
    for count in VJPS:
        found[f"Interpolated(vjps={count})"] = count, adj.Interpolated(count)
        found[f'Adjoint("stored", steps={count})'] = count, adj.Adjoint("stored", steps=count)
        found[f"Truncated(last={count})"] = count, adj.Truncated(count)
    return found | {"Interpolated(vjps=N)": (steps, adj.Interpolated(steps)), 'Adjoint("solved")': (steps, adj.Adjoint("solved"))}


def losses(model: Any) -> dict[str, Callable[[Tensor, list[str]], Tensor]]:
    """Losses of latents, one number a sample: a colour mood, and the judge's cross-entropy to the prompt's own concept."""
    mood, judge = metrics.resolve("color:mood=dusk"), Judge.load()

    def cross_entropy(x: Tensor, concepts: list[str]) -> Tensor:
        targets = torch.tensor([judge.concepts.index(concept) for concept in concepts])
        return torch.nn.functional.cross_entropy(judge.concept_logits(model.decode(x)), targets, reduction="none")

    return {"colour mood": lambda x, _: mood(model.decode(x)), "concept cross-entropy": cross_entropy}


def relative(value: Tensor, exact: Tensor) -> list[float]:
    """‖value − exact‖ / ‖exact‖ of each sample."""
    return ((value - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).tolist()


def main(
    model: str = "tiny",
    steps: int = 50,
    guidance: float = 5.0,
    seeds: int = 4,
    page: Annotated[Path | None, typer.Option(help="Page that the table is written into.")] = None,
) -> None:
    """Measure, print the table, and write `results/few-vjps.json`."""
    pipeline = load(model)
    prompts = [prompt for prompt in PROMPTS for _ in range(seeds)]
    concepts = [PROMPTS[prompt] for prompt in prompts]
    with torch.no_grad():
        cond, null_cond, scale = pipeline.conditioning(pipeline.encode(prompts), None, guidance)
    schedule = adj.NoiseSchedule.from_scheduler(pipeline.pipe.scheduler)
    grid = adj.grids.leading(schedule, steps)
    denoiser = adj.Denoiser(pipeline.network, guidance_scale=scale, null_cond=null_cond)

    def gradients(loss: Callable[[Tensor, list[str]], Tensor], method: GradientMethod) -> tuple[Tensor, Tensor, float]:
        noise = pipeline.noise(len(prompts), seed=1).requires_grad_()
        own = {key: value.clone().requires_grad_() for key, value in cond.items()}
        started = time.perf_counter()
        x = adj.sample(denoiser, noise, schedule=schedule, cond=own, grid=grid, gradient=method)
        found = torch.autograd.grad(loss(x, concepts).sum(), [noise, *own.values()])
        return found[0], found[1], time.perf_counter() - started

    rows = []
    for name, loss in losses(pipeline).items():
        *exact, seconds = gradients(loss, adj.Checkpoint())
        for label, (vjps, method) in methods(steps).items():
            *ours, spent = gradients(loss, method)
            errors = {key: relative(a, b) for key, a, b in zip(("noise", "embedding"), ours, exact, strict=True)}
            rows.append({"loss": name, "method": label, "vjps": vjps, "time": spent / seconds, **errors})
            print(rows[-1], flush=True)
    settings = f"model `{model}`, DDIM, N = {steps} (leading grid), guidance {guidance:g}, {len(prompts)} samples, float32"
    write_json("few-vjps", {"machine": machine(), "settings": settings, "rows": rows})
    text = report(rows, f"{settings}; {machine()}. Time is that of forward and backward pass relative to `Checkpoint()`, one run each.")
    print(text)
    if page is not None:
        fill(page, text)


def report(rows: list[dict[str, Any]], title: str) -> str:
    """Median and 95th percentile over samples, ordered by the number of VJPs."""
    parts = [title]
    for loss in dict.fromkeys(row["loss"] for row in rows):
        lines = [
            [f"`{row['method']}`", str(row["vjps"]), _cell(row["noise"]), _cell(row["embedding"]), f"{row['time']:.2f}"]
            for row in sorted(rows, key=lambda row: row["vjps"])
            if row["loss"] == loss
        ]
        parts += [
            f"Loss: {loss}. Relative error, median (95th percentile)",
            table(["method", "VJPs", "noise", "embedding", "time"], lines),
        ]
    return "\n\n".join(parts)


def _cell(values: list[float]) -> str:
    median, high = torch.tensor(values).quantile(torch.tensor([0.5, 0.95])).tolist()
    return f"{median:.2g} ({high:.2g})"


if __name__ == "__main__":
    typer.run(main)
