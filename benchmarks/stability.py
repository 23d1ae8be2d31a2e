"""Which form of the probability-flow ODE to solve.

Errors of samples and gradients are measured against network calls.

`python -m benchmarks.stability mixture`, then `… model`, each measures one problem and writes its
results; `… report --page docs/stability.md` makes tables and figure of them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import torch
import typer
from jaxtyping import Float
from matplotlib import pyplot
from torch import Tensor

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.ode import DATA, EULER, HEUN, NOISE, RUNGE_KUTTA_4
from adjointdpm.engine.samplers import Sampler
from adjointdpm.engine.tree import Tree
from adjointdpm.pipelines import load
from benchmarks.common import (
    Page,
    has_results,
    machine,
    median_and_95th,
    publish,
    read_results,
    relative_errors,
    run,
    table,
    tell,
    write_results,
)
from benchmarks.forms import TIME, InForm, adjoint

FORMS = {"noise": NOISE, "data": DATA, "time": TIME}
SOLVERS = {"Euler": EULER, "Heun": HEUN, "RK4": RUNGE_KUTTA_4}
GRIDS = {"uniform in t": adj.grids.linspace, "Karras": adj.grids.karras}
QUANTITIES = {
    "sample": "sample",
    "exact": "exact gradient of the solver's steps",
    "adjoint": "continuous adjoint, states solved back",
}
MIXTURE_CALLS, MODEL_CALLS = (8, 16, 32, 64, 128), (8, 16, 32)
EXACT = adj.Backprop()
MODEL_PROMPTS = ("a noto emoji of a red apple", "a twemoji emoji of a fox")

app = typer.Typer(help=__doc__, add_completion=False)


@dataclass(frozen=True)
class Problem:
    """What is solved.

    The loss is ½‖x_0‖² of each sample, and gradients are those with respect to its noise.
    """

    denoiser: adj.Denoiser
    schedule: adj.NoiseSchedule
    noise: Float[Tensor, "batch *shape"]
    cond: Tree

    def solve(
        self, sampler: Sampler, grid: Tensor, method: GradientMethod = EXACT
    ) -> tuple[Tensor, Tensor]:
        """x_0 and the gradient for the noise."""
        noise = self.noise.clone().requires_grad_()
        x = adj.sample(
            self.denoiser,
            noise,
            schedule=self.schedule,
            cond=self.cond,
            grid=grid,
            sampler=sampler,
            gradient=method,
        )
        (gradient,) = torch.autograd.grad(0.5 * x.square().sum(), noise)
        return x.detach(), gradient

    def adjoint(self, sampler: InForm, grid: Tensor, x: Tensor) -> Tensor:
        """The gradient by the continuous adjoint, with states solved back from x_0 = `x`."""
        return adjoint(self.denoiser, self.schedule, sampler, grid, self.cond, x, x)

    def reference(self, steps: int) -> tuple[Tensor, Tensor]:
        """The same of RK4 in the noise form on a fine Karras grid."""
        return self.solve(InForm(RUNGE_KUTTA_4, NOISE), adj.grids.karras(self.schedule, steps))


def errors(value: Tensor, reference: Tensor) -> list[float]:
    """‖value − reference‖ / ‖reference‖ of each sample; infinite where the value is not finite."""
    relative = relative_errors(value, reference)
    return [float(f"{error:.4g}") for error in relative.nan_to_num(nan=torch.inf).tolist()]


def measure(
    name: str, title: str, problem: Problem, calls: Sequence[int], reference_steps: int
) -> None:
    """Measure every form, solver and grid of one problem; write `results/stability-NAME.json`."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    reference = problem.reference(reference_steps)
    coarser = problem.reference(reference_steps // 2)
    doubt = {
        quantity: errors(c, r)
        for quantity, c, r in zip(("sample", "exact"), coarser, reference, strict=True)
    }
    rows = []
    for grid, solver, form, count in product(GRIDS, SOLVERS, FORMS, calls):
        tableau = SOLVERS[solver]
        sampler = InForm(tableau, FORMS[form])
        times = GRIDS[grid](problem.schedule, count // len(tableau.c))
        x, exact = problem.solve(sampler, times)
        found = {
            "sample": errors(x, reference[0]),
            "exact": errors(exact, reference[1]),
            "adjoint": errors(problem.adjoint(sampler, times, x), reference[1]),
        }
        rows.append({"grid": grid, "solver": solver, "form": form, "calls": count, **found})
        tell(f"{name}, {grid}, {solver}, {form}: {time.perf_counter() - started:.0f} s")
    content = {
        "title": title,
        "machine": machine(),
        "samples": len(problem.noise),
        "reference_steps": reference_steps,
    }
    write_results(
        f"stability-{name}",
        content | {"doubt": doubt, "seconds": time.perf_counter() - started, "rows": rows},
    )


def mixture_epsilon(
    schedule: adj.NoiseSchedule, means: Float[Tensor, "components dim"], std: float
) -> Callable[..., Tensor]:
    """E[ε | x_t = x] for equally likely isotropic Gaussians."""

    def epsilon(x: Tensor, t: Tensor, cond: Tree) -> Tensor:
        alpha, sigma = (f(t)[:, None, None] for f in (schedule.alpha, schedule.sigma))
        variance = (alpha * std) ** 2 + sigma**2
        offset = x[:, None] - alpha * means
        weight = torch.softmax(-offset.square().sum(-1, keepdim=True) / (2 * variance), 1)
        return (weight * offset * sigma / variance).sum(1)

    return epsilon


@app.command()
def mixture(
    samples: int = 64,
    dim: int = 12,
    components: int = 4,
    std: float = 0.4,
    reference_steps: int = 2000,
) -> None:
    """Measure a Gaussian mixture with separated modes.

    Its score is known in closed form; float64, linear variance-preserving schedule.
    """
    generator = torch.Generator().manual_seed(0)
    means = 1.5 * torch.randn(components, dim, dtype=torch.float64, generator=generator)
    noise = torch.randn(samples, dim, dtype=torch.float64, generator=generator)
    schedule = adj.NoiseSchedule.linear()
    title = (
        f"Gaussian mixture: {components} components of standard deviation {std} in {dim} "
        f"dimensions, closed-form ε, float64, `NoiseSchedule.linear()` from t = {schedule.t_max:g} "
        f"to {schedule.t_min:g}"
    )
    problem = Problem(adj.Denoiser(mixture_epsilon(schedule, means, std)), schedule, noise, None)
    check_against_library(problem)
    measure("mixture", title, problem, MIXTURE_CALLS, reference_steps)


def check_against_library(problem: Problem) -> None:
    """In the noise form this file's adjoint must be `adj.Adjoint("solved")`."""
    grid = adj.grids.karras(problem.schedule, 9)
    for tableau, sampler in (
        (EULER, adj.Euler()),
        (HEUN, adj.Heun()),
        (RUNGE_KUTTA_4, adj.RungeKutta4()),
    ):
        x, expected = problem.solve(sampler, grid, adj.Adjoint("solved"))
        mine = problem.adjoint(InForm(tableau, NOISE), grid, x)
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)


@app.command()
def model(
    name: str = "tiny",
    guidance: float = 5.0,
    prompts: Annotated[
        list[str] | None, typer.Option(show_default=", ".join(MODEL_PROMPTS))
    ] = None,
    seeds: int = 2,
    calls: Annotated[
        list[int] | None, typer.Option(show_default=", ".join(map(str, MODEL_CALLS)))
    ] = None,
    reference_steps: int = 64,
) -> None:
    """The bundled model in float32: every prompt with `seeds` seeds."""
    prompts = prompts or list(MODEL_PROMPTS)
    pipeline: Any = load(name)
    with torch.no_grad():
        embeds = pipeline.encode([prompt for prompt in prompts for _ in range(seeds)])
        cond, null_cond, scale = pipeline.conditioning(embeds, None, guidance)
    noise = pipeline.noise(seeds, seed=0).repeat(len(prompts), 1, 1, 1)
    denoiser = adj.Denoiser(pipeline.network, guidance_scale=scale, null_cond=null_cond)
    schedule = adj.NoiseSchedule.from_scheduler(pipeline.pipe.scheduler)
    title = (
        f"Model `{name}`: {len(prompts)} prompts with {seeds} seeds each, guidance {guidance:g}, "
        f"float32, its own table of ᾱ"
    )
    measure(
        "model",
        title,
        Problem(denoiser, schedule, noise, cond),
        calls or MODEL_CALLS,
        reference_steps,
    )


@app.command()
def report(page: Page = None, figure: Path = Path("docs/images/stability.png")) -> None:
    """Print the tables, draw the figure, and write both into a page."""
    problems = [
        read_results(f"stability-{name}")
        for name in ("mixture", "model")
        if has_results(f"stability-{name}")
    ]
    text = "\n\n".join(section(problem) for problem in problems)
    draw(problems, figure)
    publish(text, page)


def section(problem: dict[str, Any]) -> str:
    """The tables of one problem: median and 95th percentile over samples."""
    doubt = ", ".join(
        f"{QUANTITIES[name]} {median_and_95th(values)}" for name, values in problem["doubt"].items()
    )
    parts = [
        f"## {problem['title']}",
        f"{problem['samples']} samples; {problem['seconds'] / 60:.0f} minutes on "
        f"{problem['machine']}. Reference: RK4 in the noise form, {problem['reference_steps']} "
        f"steps on a Karras grid; with half as many steps it differs by: {doubt}.",
    ]
    calls = sorted({row["calls"] for row in problem["rows"]})
    for grid in GRIDS:
        for quantity, meaning in QUANTITIES.items():
            rows = []
            for solver in SOLVERS:
                for form in FORMS:
                    line = {
                        r["calls"]: r[quantity]
                        for r in problem["rows"]
                        if (r["grid"], r["solver"], r["form"]) == (grid, solver, form)
                    }
                    rows.append([solver, form, *(median_and_95th(line[count]) for count in calls)])
            head = ["solver", "form", *(f"{count} calls" for count in calls)]
            parts += [
                f"Relative error of the {meaning}, grid {grid}: median (95th percentile)",
                table(head, rows),
            ]
    return "\n\n".join(parts)


def draw(problems: list[dict[str, Any]], path: Path) -> None:
    """Median error against network calls, one panel a problem, grid and quantity."""
    matplotlib.use("Agg")
    columns = [(problem, grid) for problem in problems for grid in GRIDS]
    figure, panels = pyplot.subplots(
        3, len(columns), figsize=(3.2 * len(columns), 8), sharex="col", sharey="row", squeeze=False
    )
    for column, (problem, grid) in enumerate(columns):
        for line, quantity in enumerate(QUANTITIES):
            panel = panels[line][column]
            for solver, style in zip(SOLVERS, ("-", "--", ":"), strict=True):
                for form, colour in zip(FORMS, ("tab:blue", "tab:green", "tab:red"), strict=True):
                    points = [
                        r
                        for r in problem["rows"]
                        if (r["grid"], r["solver"], r["form"]) == (grid, solver, form)
                    ]
                    medians = [torch.tensor(r[quantity]).median().item() for r in points]
                    panel.loglog(
                        [r["calls"] for r in points],
                        medians,
                        style,
                        color=colour,
                        marker=".",
                        label=f"{solver}, {form} form",
                    )
            panel.grid(alpha=0.3)
            panel.set_ylim(1e-6, 30)
        panels[0][column].set_title(
            f"{problem['title'].split(':')[0].replace('`', '')}, {grid}", fontsize=9
        )
        panels[-1][column].set_xlabel("network calls")
    for line, label in enumerate(
        ("error of the sample", "error of the exact gradient", "error of the adjoint")
    ):
        panels[line][0].set_ylabel(label)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, loc="lower center", fontsize=8)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=80, format="png")
    temporary.replace(path)


if __name__ == "__main__":
    run(app)
