"""From a picture back to the noise that the sampler would make it from."""

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import ReversalError
from adjointdpm.plan import NetworkCall
from adjointdpm.problem import Problem


@torch.no_grad()
def invert_euler(problem: Problem, iterations: int = 50, tolerance: float = 1e-5) -> Float[Tensor, "batch *shape"]:
    """The x_T from which Euler's steps (DDIM's) arrive at `problem.start`, taken as x_0.

    A step is y' = y + (ρ' − ρ) ε(y, t) with y = x/α. DDIM inversion (Song et al. 2021, arXiv 2010.02502, section 4.3) puts y' for the
    unknown y in ε, which is right for infinitely small steps only. Here y is solved for, iterating y ← y' − (ρ' − ρ) ε(y, t) as in Pan et
    al. (2023, arXiv 2309.04907), with Anderson's mixing of the last two iterates, so that the sampler really returns to the picture.

    Args:
        problem: the sampling problem of an Euler plan, with x_0 as its start.
        iterations: network calls for each step at most.
        tolerance: of each step, the largest root mean square residual of a sample relative to its state.

    Raises:
        ReversalError: a step's iteration does not converge; stronger guidance and fewer steps make it worse.

    """
    schedule, grid = problem.schedule, problem.plan.grid
    rho, alpha = schedule.rho(grid).tolist(), schedule.alpha(grid).tolist()
    y = problem.start / alpha[-1]
    for k, call in reversed(list(enumerate(problem.plan.network_calls))):
        y = _solve_step(problem, call, y, rho[k + 1] - rho[k], alpha[k], iterations, tolerance, k)
    return y * alpha[0]


def _solve_step(
    problem: Problem, call: NetworkCall, end: Tensor, length: float, alpha: float, iterations: int, tolerance: float, step: int
) -> Tensor:
    def previous(y: Tensor) -> Tensor:
        x = alpha * y
        raw = problem.denoiser.output(x, problem.network_time(call.time, x), problem.cond, problem.null_cond)
        return end - length * problem.denoiser.split(raw, x, call.alpha, call.sigma)[1]

    y, former = end, None
    size = torch.inf
    for _ in range(iterations):
        target = previous(y)
        residual = target - y
        size = (_norm(residual) / _norm(target)).max().item()
        if size <= tolerance:
            return target
        mixed = target
        if former is not None:
            change = residual - former[1]
            share = _dot(change, residual) / _dot(change, change).clamp(min=1e-30)
            mixed = target - share * (target - former[0])
        former, y = (target, residual), mixed
    raise ReversalError(
        f"the picture could not be inverted: step {step} did not converge in {iterations} iterations (residual {size:.1e}, "
        f"wanted {tolerance:.0e}); use a smaller guidance_scale or more steps"
    )


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1).view(-1, *[1] * (a.ndim - 1))


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)
