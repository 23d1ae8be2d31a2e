"""Picture -> noise -> picture, and gradients without stored states.

`python -m benchmarks.inversion --page docs/inversion.md`

Measured on the bundled model in float32 are three inversions (stock DDIM's, the implicit one of
Euler's steps, and the reversible sampler's), how exact `Reversible` gradients are, and where the
reversible sampler's way back is refused.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, Any

import torch
import typer
from diffusers import DDIMInverseScheduler
from torch import Tensor

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.inversion import invert_euler, invert_reversible
from adjointdpm.engine.problem import Problem
from adjointdpm.errors import ReversalError
from adjointdpm.pipelines import load
from benchmarks.common import (
    Page,
    PageOnly,
    machine,
    publish,
    read_results,
    relative_errors,
    run,
    table,
    tell,
    write_results,
)

STARTS = [
    ("a noto emoji of a red apple", 0),
    ("a twemoji emoji of a fox", 1),
    ("a fluent emoji of a penguin", 2),
    ("a noto emoji of a lion", 3),
]
GUIDANCE = (1.0, 5.0)
STEPS, COUPLINGS, DEFAULT = (5, 10, 25, 50), (0.5, 0.8, 0.9, 0.95, 0.99), 0.95


@dataclass(frozen=True)
class Case:
    """Latents to invert, and the guided network that they are inverted with."""

    pipeline: Any
    steps: int
    denoiser: adj.Denoiser
    cond: Any
    latents: Tensor

    @property
    def schedule(self) -> adj.NoiseSchedule:
        return adj.NoiseSchedule.from_scheduler(self.pipeline.pipe.scheduler)

    def problem(self, sampler: Any, grid: Tensor) -> Problem:
        """The sampling problem that ends in the latents."""
        null = self.denoiser.null_cond
        return Problem(
            self.denoiser,
            self.schedule,
            sampler,
            sampler.plan(self.schedule, grid),
            self.latents,
            self.cond,
            null,
        )

    def run(self, scheduler: Any, x: Tensor) -> Tensor:
        """`x` through the steps of a diffusers scheduler."""
        call = lambda x, t: self.denoiser(x, t, self.cond, self.denoiser.null_cond)  # noqa: E731
        loop = self.pipeline.scheduler_loop(scheduler, self.steps, self.pipeline.device)
        return loop.run(call, x, [])

    def first(self, count: int) -> "Case":
        """The same with the first samples only."""
        return replace(
            self,
            cond={key: value[:count] for key, value in self.cond.items()},
            latents=self.latents[:count],
        )


RoundTrip = tuple[
    Callable[[Case], Any], Callable[[Case, Any], Tensor]
]  # latents -> noise, noise -> latents


def stock() -> RoundTrip:
    """The DDIMInverseScheduler of diffusers, and its DDIMScheduler back."""

    def there(case: Case) -> Tensor:
        return case.run(
            DDIMInverseScheduler.from_config(case.pipeline.pipe.scheduler.config), case.latents
        )

    return there, lambda case, noise: case.run(case.pipeline.pipe.scheduler, noise)


def implicit() -> RoundTrip:
    """`invert_euler`, and the pipeline's DDIMScheduler back."""

    def there(case: Case) -> Tensor:
        return invert_euler(case.problem(adj.Euler(), adj.grids.leading(case.schedule, case.steps)))

    return there, lambda case, noise: case.run(case.pipeline.pipe.scheduler, noise)


def reversible(coupling: float, dtype: torch.dtype | None) -> RoundTrip:
    """`invert_reversible` and `sample` back, with states in `dtype`."""

    def there(case: Case) -> Any:
        return invert_reversible(
            case.problem(
                adj.ReversibleEuler(coupling), adj.grids.log_snr(case.schedule, case.steps)
            ),
            dtype=dtype,
        )

    def back(case: Case, found: Any) -> Tensor:
        noise, sampler = found
        grid = adj.grids.log_snr(case.schedule, case.steps)
        return adj.sample(
            case.denoiser, noise, schedule=case.schedule, cond=case.cond, grid=grid, sampler=sampler
        )

    return there, back


METHODS: dict[str, RoundTrip] = {
    "diffusers DDIMInverseScheduler": stock(),
    "`invert_euler` (implicit)": implicit(),
    "`invert_reversible`": reversible(DEFAULT, None),
    "the same, states in float32": reversible(DEFAULT, torch.float32),
    "float32, coupling 0.9": reversible(0.9, torch.float32),
}


@torch.no_grad()
def make_case(pipeline: Any, guidance: float, steps: int, samples: int) -> dict[str, Case]:
    """Drawn latents, and latents encoded from the decoded pictures."""
    prompts = [prompt for prompt, _ in STARTS[:samples]]
    cond, null, scale = pipeline.conditioning(pipeline.encode(prompts), None, guidance)
    noise = torch.cat([pipeline.noise(1, seed) for _, seed in STARTS[:samples]])
    case = Case(
        pipeline,
        steps,
        adj.Denoiser(pipeline.network, guidance_scale=scale, null_cond=null),
        cond,
        noise,
    )
    drawn = case.run(pipeline.pipe.scheduler, noise)
    vae = pipeline.pipe.vae
    encoded = (
        vae.encode(2 * pipeline.decode(drawn).clamp(0, 1) - 1).latent_dist.mode()
        * vae.config.scaling_factor
    )
    return {"drawn": replace(case, latents=drawn), "encoded": replace(case, latents=encoded)}


@torch.no_grad()
def round_trip(case: Case, method: RoundTrip) -> dict[str, Any]:
    """Errors (the worst sample's), the noise, calls and seconds of each way."""
    there, back = method
    with adj.stats() as counts:
        started = time.perf_counter()
        try:
            found = there(case)
        except ReversalError as error:
            return {
                "refused": str(error),
                "calls": counts.network_calls,
                "seconds": time.perf_counter() - started,
            }
        calls, seconds = counts.network_calls, time.perf_counter() - started
        again = back(case, found)
    noise, gap = (
        (found[0], found[1].gap) if isinstance(found, tuple) else (found, torch.zeros_like(found))
    )
    pictures = [case.pipeline.decode(x.float()) for x in (again, case.latents)]
    return {
        "latents": relative(again, case.latents),
        "picture": (pictures[0] - pictures[1]).abs().max().item(),
        "std": noise.std().item(),
        "gap": gap.std().item(),
        "calls": calls,
        "seconds": seconds,
        "calls_back": counts.network_calls - calls,
        "seconds_back": time.perf_counter() - started - seconds,
    }


def gradients(case: Case, coupling: float, steps: int, dtype: torch.dtype) -> dict[str, Any]:
    """Relative errors of `Reversible()` against `Checkpoint()` on the same steps, of ½‖x_0‖².

    Or that `Reversible()` refused.
    """
    grid, noise = (
        adj.grids.log_snr(case.schedule, steps),
        torch.cat([case.pipeline.noise(1, seed) for _, seed in STARTS[: len(case.latents)]]),
    )

    def solve(method: GradientMethod) -> tuple[list[Tensor], float]:
        started = time.perf_counter()
        x = noise.to(dtype, copy=True).requires_grad_()
        cond = {key: value.clone().requires_grad_() for key, value in case.cond.items()}
        sampler = adj.ReversibleEuler(coupling)
        end = adj.sample(
            case.denoiser,
            x,
            schedule=case.schedule,
            cond=cond,
            grid=grid,
            sampler=sampler,
            gradient=method,
        )
        found = torch.autograd.grad(0.5 * end.square().sum(), [x, *cond.values()])
        return list(found), time.perf_counter() - started

    exact, seconds = solve(adj.Checkpoint())
    row = {"coupling": coupling, "steps": steps, "noise_dtype": str(dtype).removeprefix("torch.")}
    try:
        ours, spent = solve(adj.Reversible())
    except ReversalError as error:
        return row | {"refused": str(error)}
    return row | {
        "noise": relative(ours[0], exact[0]),
        "embedding": relative(ours[1], exact[1]),
        "time": spent / seconds,
    }


def relative(value: Tensor, reference: Tensor) -> float:
    """‖value − reference‖ / ‖reference‖ of the worst sample."""
    return relative_errors(value, reference).max().item()


def main(
    model: str = "tiny",
    steps: int = 50,
    samples: Annotated[
        int, typer.Option(min=1, max=len(STARTS), help="Prompts, each with a seed of its own.")
    ] = 2,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Measure, print the tables, and write `results/inversion.json`."""
    torch.set_num_threads(1)
    if not page_only:
        write_results("inversion", measure(model, steps, samples))
    publish(report(read_results("inversion")), page)


def measure(model: str, steps: int, samples: int) -> dict[str, Any]:
    """Measure round trips, gradients and where the way back is stable, at every guidance."""
    pipeline = load(model)
    pipeline.pipe.unet.requires_grad_(False)
    started = time.perf_counter()
    trips, exactness, stability = [], [], []
    for guidance in GUIDANCE:
        at = {"guidance": guidance}
        cases = make_case(pipeline, guidance, steps, samples)
        for kind, case in cases.items():
            trips += [
                at | {"start": kind, "method": name} | round_trip(case, method)
                for name, method in METHODS.items()
            ]
            tell(f"{trips[-len(METHODS) :]} {time.perf_counter() - started:.0f} s")
        one = cases["encoded"].first(1)
        for dtype in (torch.float32, torch.float64):
            exactness.append(at | gradients(one, DEFAULT, steps, dtype))
        for count, coupling in product(STEPS[:2], (0.5, 0.8, DEFAULT)):
            exactness.append(at | gradients(one, coupling, count, torch.float32))
        tell(f"{exactness} {time.perf_counter() - started:.0f} s")
        for count, coupling in product(STEPS, COUPLINGS):
            row = round_trip(replace(one, steps=count), reversible(coupling, torch.float32))
            stability.append(at | {"steps": count, "coupling": coupling} | row)
        tell(f"stability, {time.perf_counter() - started:.0f} s")
    settings = f"model `{model}`, N = {steps}, {samples} prompts with a seed each"
    content = {"machine": machine(), "settings": settings, "seconds": time.perf_counter() - started}
    return content | {"round_trips": trips, "gradients": exactness, "stability": stability}


def report(content: dict[str, Any]) -> str:
    """The three tables."""
    return "\n\n".join(
        [
            f"{content['settings']}; {content['machine']}; {content['seconds'] / 60:.1f} minutes "
            f"in all.",
            "## Round trips",
            "Errors are those of the worst sample: of latents relative, of pictures the largest "
            "absolute one in [0, 1]. Calls and seconds: to the noise + back.",
            table(
                [
                    "guidance",
                    "latents",
                    "method",
                    "error of latents",
                    "of pictures",
                    "std of the noise",
                    "of the gap",
                    "calls",
                    "seconds",
                ],
                [
                    [f"{row['guidance']:g}", row["start"], row["method"], *_trip(row)]
                    for row in content["round_trips"]
                ],
            ),
            "## Gradients",
            "`Reversible()` against `Checkpoint()` on the same steps, relative error; one sample. "
            "Time: `Reversible()` / `Checkpoint()`.",
            table(
                [
                    "guidance",
                    "steps",
                    "coupling",
                    "dtype of the noise",
                    "noise",
                    "embedding",
                    "time",
                ],
                [
                    [
                        f"{row['guidance']:g}",
                        str(row["steps"]),
                        f"{row['coupling']:g}",
                        row["noise_dtype"],
                        *_gradient(row),
                    ]
                    for row in content["gradients"]
                ],
            ),
            "## Where the way back is stable",
            "`invert_reversible` of one encoded picture, states in float32: relative error of the "
            "latents drawn again by `sample` (standard deviation of the noise, of the gap), or "
            "that it raised `ReversalError`.",
            *(_stability(content["stability"], guidance) for guidance in GUIDANCE),
        ]
    )


def _trip(row: dict[str, Any]) -> list[str]:
    if "refused" in row:
        return ["`ReversalError`", "–", "–", "–", str(row["calls"]), f"{row['seconds']:.1f}"]
    errors = [f"{row[name]:.1e}" for name in ("latents", "picture")]
    spread = [f"{row['std']:.2f}", f"{row['gap']:.2g}" if row["gap"] else "–"]
    return [
        *errors,
        *spread,
        f"{row['calls']} + {row['calls_back']}",
        f"{row['seconds']:.1f} + {row['seconds_back']:.1f}",
    ]


def _gradient(row: dict[str, Any]) -> list[str]:
    return (
        ["`ReversalError`", "–", "–"]
        if "refused" in row
        else [f"{row['noise']:.1e}", f"{row['embedding']:.1e}", f"{row['time']:.2f}"]
    )


def _stability(rows: list[dict[str, Any]], guidance: float) -> str:
    def cell(row: dict[str, Any]) -> str:
        return (
            "`ReversalError`"
            if "refused" in row
            else f"{row['latents']:.1e} ({row['std']:.2g}, {row['gap']:.2g})"
        )

    lines = []
    for steps in STEPS:
        found = {
            row["coupling"]: cell(row)
            for row in rows
            if (row["guidance"], row["steps"]) == (guidance, steps)
        }
        lines.append([str(steps), *(found[coupling] for coupling in COUPLINGS)])
    return f"Guidance {guidance:g}\n\n" + table(
        ["steps", *(f"coupling {coupling:g}" for coupling in COUPLINGS)], lines
    )


if __name__ == "__main__":
    run(main)
