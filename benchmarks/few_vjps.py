"""How far few network VJPs can go: `python -m benchmarks.few_vjps --page docs/few-vjps.md`.

Along a DDIM trajectory the exact costate asks every network call for w = (∂x̂_0/∂y)ᵀ a (y = x/α).
Whoever saves VJPs has to guess w at the calls that are left out from those at its neighbours.
Measured: how much w changes from one call to the next, how well a line through two neighbours
foretells the call between them, and what an all-knowing rule would reach that has the exact w at
its nodes and chooses the nodes of every picture by looking at the answer. Whether two cheap
gradients extrapolate to a better one (Richardson). And whether the last exact gradient can correct
a cheaper one a step of optimisation later. The prompts and seeds are none of the registered ones
(`benchmarks/gradients/preregistration.yaml`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float
from torch import Tensor

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from benchmarks.common import (
    FASHION,
    FashionFolder,
    Page,
    PageOnly,
    check_known,
    machine,
    median_and_95th,
    publish,
    read_results,
    relative_errors,
    run,
    table,
    write_results,
)
from benchmarks.gradients.fashion import CLASSES, load_fashion
from benchmarks.gradients.registration import Pair, Registration
from benchmarks.gradients.tiny import load_tiny
from benchmarks.gradients.workload import Workload
from benchmarks.stability import mixture_epsilon

MODELS = ("mixture", "tiny", "fashion")
STEPS, GUIDANCE, SEED = 50, 5.0, 500
VJPS = (5, 10, 20, 35)
CORRECTED = (10, 20)  # VJPs of the gradients that are corrected
EXTRAPOLATED = (5, 10)  # M of the gradients that are extrapolated, from M and 2M
ORDERS = (1, 2, 3)
MOVES = (0.003, 0.01, 0.03)  # of the noise, root mean square
PROMPTS = {
    "a noto emoji of a fox": "fox",
    "a twemoji emoji of a hamburger": "hamburger",
    "a fluent emoji of a penguin": "penguin",
    "a noto emoji of a lion": "lion",
    "a twemoji emoji of a banana": "banana",
    "a fluent emoji of a cookie": "cookie",
}


@dataclass
class Case:
    """A sampling problem with a loss.

    Args:
        denoiser, cond, schedule: the guided network.
        noise: initial noise.
        loss: of x_0, one number a sample.

    """

    denoiser: adj.Denoiser
    cond: Any
    schedule: adj.NoiseSchedule
    noise: Float[Tensor, "B *shape"]
    loss: Callable[[Tensor], Float[Tensor, " B"]]

    def gradient(self, method: GradientMethod) -> Float[Tensor, "B *shape"]:
        """∂L/∂noise."""
        noise = self.noise.clone().requires_grad_()
        x = adj.sample(
            self.denoiser,
            noise,
            schedule=self.schedule,
            cond=self.cond,
            grid=self.grid,
            gradient=method,
        )
        return torch.autograd.grad(self.loss(x).sum(), noise)[0]

    @property
    def grid(self) -> Float[Tensor, " steps+1"]:
        """The pipeline's own: uniform in t."""
        return adj.grids.leading(self.schedule, STEPS)


@dataclass
class Trajectory:
    """What the exact transpose of Euler's steps asks and gets.

    Args:
        rho: σ/α at every call, [N].
        gain: by call, the weight of its w in the gradient: a_0 = … + gain_k w_k, [N].
        w: the network's part at every call, [N, B, numbers].
        total: the gradient a_0, [B, numbers].

    """

    rho: Float[Tensor, " N"]
    gain: Float[Tensor, " N"]
    w: Float[Tensor, "N B D"]
    total: Float[Tensor, "B D"]


def follow(case: Case) -> Trajectory:
    """Sample with DDIM, then go back with the exact costate, one VJP a call."""
    grid, schedule = case.grid, case.schedule
    alpha, sigma = schedule.alpha(grid).tolist(), schedule.sigma(grid).tolist()
    rho = [s / a for s, a in zip(sigma, alpha, strict=True)]

    def data(k: int, x: Tensor) -> tuple[Tensor, Tensor]:
        t = grid[k].to(x.device, torch.float32).expand(len(x))
        return case.denoiser.split(
            case.denoiser(x, t, case.cond, case.denoiser.null_cond), x, alpha[k], sigma[k]
        )

    x, states = case.noise * schedule.initial_scale, []
    with torch.no_grad():
        for k in range(STEPS):
            states.append(x)
            clean, noise = data(k, x)
            x = alpha[k + 1] * clean + sigma[k + 1] * noise
    x.requires_grad_()
    (a,) = torch.autograd.grad(case.loss(x).sum(), x)
    a, found = a * alpha[-1], []
    shrink = [rho[k + 1] / rho[k] for k in range(STEPS)]
    for k in reversed(range(STEPS)):
        state = states[k].requires_grad_()
        (pulled,) = torch.autograd.grad(data(k, state)[0], state, a)
        found.insert(0, (pulled * alpha[k]).flatten(1))
        a = shrink[k] * a + (1 - shrink[k]) * pulled * alpha[k]
    kept = torch.tensor([1.0, *shrink[:-1]], dtype=torch.float64).cumprod(0)
    gain = kept * (1 - torch.tensor(shrink, dtype=torch.float64))
    return Trajectory(
        torch.tensor(rho[:-1], dtype=torch.float64),
        gain,
        torch.stack(found).double(),
        a.flatten(1).double(),
    )


def roughness(path: Trajectory, bounds: Sequence[int]) -> list[dict[str, float]]:
    """How much w changes along the trajectory, by range of calls.

    "change" is the median change from one call to the next. "line" is the median error of a line
    through both neighbours. Both are relative.
    """
    w, position = path.w, path.rho.log()
    size = w[1:-1].norm(dim=2)
    share = ((position[1:-1] - position[2:]) / (position[:-2] - position[2:]))[:, None, None]
    line = (share * w[:-2] + (1 - share) * w[2:] - w[1:-1]).norm(dim=2) / size
    change = (w[1:-1] - w[:-2]).norm(dim=2) / size
    rows = []
    for first, last in pairwise(bounds):
        part = slice(max(first, 1) - 1, min(last, STEPS - 1) - 1)
        rows.append(
            {
                "first": first,
                "last": last - 1,
                "change": change[part].median().item(),
                "line": line[part].median().item(),
            }
        )
    return rows


def oracle(path: Trajectory) -> dict[int, list[float]]:
    """The all-knowing rule's error of a_0 for each sample, by number of VJPs.

    w is exact at the nodes and linear in log ρ in between.

    The nodes are those that are left when, one after the other, the call is dropped whose loss does
    least harm to this sample's own gradient. No method can choose them so, or know w there exactly:
    its costate is already off.
    """
    position = path.rho.log()
    found: dict[int, list[float]] = {count: [] for count in VJPS}
    for b in range(path.total.shape[0]):
        w, gaps = path.w[:, b], {}

        def gap(
            p: int, q: int, w: Tensor = w, gaps: dict[tuple[int, int], Tensor] = gaps
        ) -> Tensor:
            """What interpolating between nodes p and q does to the gradient."""
            if (p, q) not in gaps:
                inside = slice(p + 1, q)
                share = ((position[inside] - position[q]) / (position[p] - position[q]))[:, None]
                gaps[p, q] = (
                    path.gain[inside, None] * (share * w[p] + (1 - share) * w[q] - w[inside])
                ).sum(0)
            return gaps[p, q]

        nodes, error = list(range(STEPS)), torch.zeros_like(w[0])
        while len(nodes) > min(VJPS):
            inner = range(1, len(nodes) - 1)
            trials = [
                error
                - gap(nodes[i - 1], nodes[i])
                - gap(nodes[i], nodes[i + 1])
                + gap(nodes[i - 1], nodes[i + 1])
                for i in inner
            ]
            best = min(range(len(trials)), key=lambda i: trials[i].norm().item())
            error = trials[best]
            del nodes[best + 1]
            if len(nodes) in found:
                found[len(nodes)].append((error.norm() / path.total[b].norm()).item())
    return found


def extrapolated(
    case: Case, exact: Float[Tensor, "B *shape"], count: int
) -> dict[str, list[float]]:
    """Errors of Richardson's extrapolation from M = `count` and 2M VJPs.

    Beside them are the errors of the same 3M VJPs without it.

    g_2M + λ (g_2M − g_M), where λ = 1/(2^p − 1) removes an error of order p in the distance of
    nodes. The all-knowing λ is the best of each picture, whatever the order.
    """
    coarse, fine, same_cost = (
        case.gradient(adj.Interpolated(times * count)) for times in (1, 2, 3)
    )
    change, missing = (value.flatten(1) for value in (fine - coarse, exact - fine))
    best = (change * missing).sum(1) / change.square().sum(1)
    guesses = {"fine": fine} | {
        f"order {order}": fine + (fine - coarse) / (2**order - 1) for order in ORDERS
    }
    guesses |= {
        "all-knowing": fine + best.view(-1, *[1] * (fine.ndim - 1)) * (fine - coarse),
        "same cost": same_cost,
    }
    return {name: _errors(guess, exact) for name, guess in guesses.items()}


def corrected(case: Case, exact: Float[Tensor, "B *shape"]) -> list[dict[str, Any]]:
    """Errors after the noise has moved a step along −∂L/∂noise.

    They are those of `Interpolated`, of `Interpolated` corrected, and of the gradient before the
    step.

    The correction is what `Interpolated` missed before the step: a control variate.
    """
    before = {count: case.gradient(adj.Interpolated(count)) for count in CORRECTED}
    found = []
    for size in MOVES:
        direction = exact / exact.flatten(1).square().mean(1).sqrt().view(
            -1, *[1] * (exact.ndim - 1)
        )
        moved = replace(case, noise=case.noise - size * direction)
        after = moved.gradient(adj.Checkpoint())
        guesses = {"stale": exact}
        for count, old in before.items():
            new = moved.gradient(adj.Interpolated(count))
            guesses |= {f"plain {count}": new, f"corrected {count}": new + exact - old}
        found.append(
            {
                "size": size,
                "errors": {name: _errors(guess, after) for name, guess in guesses.items()},
            }
        )
    return found


def _errors(ours: Tensor, exact: Tensor) -> list[float]:
    return relative_errors(ours, exact).tolist()


def cases(fashion: Path, models: Sequence[str]) -> dict[str, list[Case]]:
    """By model, one case a registered metric (the mixture has one)."""
    registration = Registration()
    pairs = {
        "tiny": [
            Pair(i, prompt, concept, SEED + i)
            for i, (prompt, concept) in enumerate(PROMPTS.items())
        ],
        "fashion": [Pair(i, name, name, SEED + i) for i, name in enumerate(CLASSES[:6])],
    }
    workloads: list[Workload] = (
        [load_tiny(registration.metrics("tiny"))] if "tiny" in models else []
    )
    workloads += (
        [load_fashion(fashion, registration.metrics("fashion"))] if "fashion" in models else []
    )
    found = {"mixture": [mixture()]} if "mixture" in models else {}
    for workload in workloads:
        some = pairs[workload.name]
        with torch.no_grad():
            denoiser, cond = workload.denoiser(some, GUIDANCE)
            noise = workload.noise(some)
        found[workload.name] = [
            Case(
                denoiser,
                cond,
                workload.schedule,
                noise,
                lambda x, w=workload, m=metric, s=some: w.losses(m, x, s),
            )
            for metric in registration.metrics(workload.name)
        ]
    return found


def mixture() -> Case:
    """A smooth problem to compare with: four Gaussians in 12 dimensions, with closed-form ε.

    It has the bundled model's schedule, and no guidance.
    """
    generator = torch.Generator().manual_seed(SEED)
    means = 1.5 * torch.randn(4, 12, dtype=torch.float64, generator=generator)
    noise = torch.randn(18, 12, dtype=torch.float64, generator=generator)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    schedule = adj.NoiseSchedule.from_alphas_cumprod(torch.cumprod(1 - betas, 0))
    return Case(
        adj.Denoiser(mixture_epsilon(schedule, means, 0.8)),
        None,
        schedule,
        noise,
        lambda x: x.sin().sum(1),
    )


def measure(found: Sequence[Case]) -> dict[str, Any]:
    """Measure everything on one model, pooled over its cases.

    That is the roughness, what the all-knowing rule reaches, and what `Interpolated` does.
    """
    bounds = (0, 10, 20, 30, 40, 50)
    rough, known, ours, moves, richardson = [], [], [], [], []
    for case in found:
        path, exact = follow(case), case.gradient(adj.Checkpoint())
        start = case.schedule.initial_scale * path.total / case.schedule.alpha(case.grid[0])
        assert (start - exact.flatten(1)).norm() < 1e-3 * exact.norm(), (
            "the transpose that is analysed is not that of the sampler"
        )
        rough.append(roughness(path, bounds))
        known.append(oracle(path))
        for count in VJPS:
            ours.append(
                {"vjps": count, "errors": _errors(case.gradient(adj.Interpolated(count)), exact)}
            )
        moves.append(corrected(case, exact))
        richardson.append({count: extrapolated(case, exact, count) for count in EXTRAPOLATED})
    return {
        "roughness": [
            {key: sum(rows[i][key] for rows in rough) / len(rough) for key in rough[0][i]}
            for i in range(len(bounds) - 1)
        ],
        "oracle": {count: [error for one in known for error in one[count]] for count in VJPS},
        "interpolated": {
            count: [error for one in ours if one["vjps"] == count for error in one["errors"]]
            for count in VJPS
        },
        "extrapolated": {
            count: {
                name: [error for one in richardson for error in one[count][name]]
                for name in richardson[0][count]
            }
            for count in EXTRAPOLATED
        },
        "moved": [
            {
                "size": size,
                "errors": {
                    name: [error for one in moves for error in one[i]["errors"][name]]
                    for name in moves[0][i]["errors"]
                },
            }
            for i, size in enumerate(MOVES)
        ],
    }


def report(found: dict[str, dict[str, Any]]) -> str:
    """All tables, of what `read_results` gives: there numbers that are keys are text."""
    rough = [
        [name, *(f"{row['change']:.2g} / {row['line']:.2g}" for row in result["roughness"])]
        for name, result in found.items()
    ]
    ranges = [
        f"calls {row['first']:.0f}–{row['last']:.0f}"
        for row in next(iter(found.values()))["roughness"]
    ]
    errors = [
        [name, rule, *(median_and_95th(result[key][str(count)]) for count in VJPS)]
        for name, result in found.items()
        for rule, key in (("all-knowing", "oracle"), ("`Interpolated(M)`", "interpolated"))
    ]
    kinds = {"stale": "the exact gradient before it"} | {
        f"{kind} {count}": f"`Interpolated({count})`{', corrected' if kind == 'corrected' else ''}"
        for count in CORRECTED
        for kind in ("plain", "corrected")
    }
    names = {"fine": "`Interpolated(2M)`"} | {
        f"order {order}": f"order {order}" for order in ORDERS
    }
    names |= {"all-knowing": "all-knowing λ", "same cost": "`Interpolated(3M)`"}
    limits = [
        [
            name,
            str(count),
            *(median_and_95th(result["extrapolated"][str(count)][kind]) for kind in names),
        ]
        for name, result in found.items()
        for count in EXTRAPOLATED
    ]
    later = [
        [name, f"{row['size']:g}", *(median_and_95th(row["errors"][kind]) for kind in kinds)]
        for name, result in found.items()
        for row in result["moved"]
    ]
    return (
        "Relative change of w from one call to the next / error of a line through both neighbours; "
        "medians, the noisiest calls first.\n\n"
        f"{table(['model', *ranges], rough)}\n\n"
        "Relative error of ∂L/∂noise: median (95th percentile) over pictures and losses.\n\n"
        f"{table(['model', 'rule', *(f'M = {count}' for count in VJPS)], errors)}\n\n"
        "Richardson: relative error of ∂L/∂noise from g_2M + λ (g_2M − g_M), with λ = 1/(2^p − 1) "
        "for errors of order p; beside it "
        "`Interpolated` with as many VJPs: median (95th percentile).\n\n"
        f"{table(['model', 'M', *names.values()], limits)}\n\n"
        "After a step of the noise along −∂L/∂noise, relative error of ∂L/∂noise there by several "
        "guesses: median (95th percentile).\n\n"
        f"{table(['model', 'step, RMS', *kinds.values()], later)}"
    )


def main(
    fashion: FashionFolder = FASHION,
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure these; the others are taken from the results. Repeatable.",
            show_default=", ".join(MODELS),
        ),
    ] = None,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Measure, print the tables, and write `results/few-vjps.json`."""
    chosen = models or MODELS
    check_known("--models", chosen, MODELS)
    if not page_only:
        measured = {name: measure(some) for name, some in cases(fashion, chosen).items()}
        known = {} if set(chosen) == set(MODELS) else read_results("few-vjps")["models"]
        settings = (
            f"DDIM, N = {STEPS} (leading grid), guidance {GUIDANCE:g} (mixture: none); {machine()}"
        )
        found = {name: (known | measured)[name] for name in MODELS}
        write_results("few-vjps", {"settings": settings, "models": found})
    content = read_results("few-vjps")
    publish(f"{content['settings']}.\n\n{report(content['models'])}", page)


if __name__ == "__main__":
    run(main)
