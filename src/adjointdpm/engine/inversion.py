"""From a picture back to the noise from which the sampler makes it."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.numerics import dots, finest_dtype, norms, positive
from adjointdpm.engine.plan import NetworkCall
from adjointdpm.engine.problem import Network, Problem
from adjointdpm.engine.samplers.reversible import ReversibleEuler
from adjointdpm.errors import ReversalError, UnsupportedError


@torch.no_grad()
def invert_euler(
    problem: Problem, iterations: int = 50, tolerance: float = 1e-5
) -> Float[Tensor, "batch *shape"]:
    """The x_T from which Euler's steps (DDIM's) arrive at `problem.start`, taken as x_0.

    A step is y' = y + (ρ' − ρ) ε(y, t) with y = x/α. DDIM inversion (Song et al. 2021, arXiv
    2010.02502, section 4.3) evaluates ε at y' in place of the unknown y, which is right for
    infinitely small steps only. Here the step is solved for y, so that the sampler really returns
    to the picture: by iterating y ← y' − (ρ' − ρ) ε(y, t) as in Pan et al. (2023, arXiv
    2309.04907), with Anderson's mixing of the last two iterates.

    Args:
        problem: the sampling problem of an Euler plan, with x_0 as its start.
        iterations: the most network calls for one step.
        tolerance: the largest residual of a sample at which a step counts as solved, relative to
            the length of its state.

    Raises:
        ReversalError: a step's iteration does not converge; stronger guidance and fewer steps make
            that more likely.

    """
    schedule, grid = problem.schedule, problem.plan.grid
    rho, alpha = schedule.rho(grid).tolist(), schedule.alpha(grid).tolist()
    y = problem.start / alpha[-1]
    for k, call in reversed(list(enumerate(problem.plan.network_calls))):
        y = _solve_step(problem, call, y, rho[k + 1] - rho[k], iterations, tolerance, k)
    return y * alpha[0]


@torch.no_grad()
def invert_reversible(
    problem: Problem, tolerance: float = 1e-5, dtype: torch.dtype | None = None
) -> tuple[Float[Tensor, "batch *shape"], ReversibleEuler]:
    """The x_T, and the sampler, from which `ReversibleEuler` arrives at `problem.start` (x_0).

    The steps are solved for (y, z) one after the other, starting from y = z at the picture: 2N
    network calls without any iteration. Then they are taken forwards again, another 2N calls, and
    the result is compared with the picture. It differs by rounding alone, multiplied by 1/coupling
    a step. With states in float64 even a float32 network gets the same inputs again, nearly always
    to the bit.

    Args:
        problem: the sampling problem of a `ReversibleEuler` plan without a gap, with x_0 as its
            start.
        tolerance: the largest relative error of a sample that is drawn again.
        dtype: the dtype of the states and the result. None: float64 where the device has it, but
            the picture's own for a network that is a function, since that need not take float64
            (a module gets its inputs in its own precision).

    Returns:
        x_T (`sample` takes it divided by `schedule.initial_scale`), and the sampler that draws the
        picture again from it on the same grid.

    Raises:
        UnsupportedError: the sampler is another one.
        ReversalError: a different picture arrives, or none: the steps are too large, or rounding
            is too coarse for them.

    """
    sampler = problem.sampler
    if not isinstance(sampler, ReversibleEuler):
        raise UnsupportedError(
            f"invert_reversible needs sampler=ReversibleEuler(), not {sampler!r}, whose steps "
            f"cannot be run backwards"
        )
    own = problem.start.dtype
    if dtype is None:
        module = isinstance(problem.denoiser.network, nn.Module)
        dtype = finest_dtype(problem.start) if module else own
    picture = problem.start.to(dtype)

    def network(x: Tensor, *rest: Any) -> Tensor:
        # Autocast leaves float64 alone, but a module's weights are not in float64.
        autocast = torch.is_autocast_enabled(x.device.type)
        return problem.denoiser(x.to(own) if autocast else x, *rest).to(x.dtype)

    y, z = _steps_back(problem, picture, sampler.coupling, network)
    alpha = problem.schedule.alpha(problem.plan.grid)[0].item()
    sampler = replace(sampler, gap=(y - z) * alpha)
    plan = sampler.plan(problem.schedule, problem.plan.grid)
    found = replace(problem, start=z * alpha, sampler=sampler, plan=plan, callback=None)
    error = (norms(found.run(network) - picture) / norms(picture)).max().item()
    if not error <= tolerance:  # NaN is an error too
        raise ReversalError(
            f"the picture could not be inverted: drawn again, it is {error:.1e} (relative) away "
            f"from itself, more than {tolerance:.0e}; take grids.log_snr, more steps, another "
            f"coupling, a smaller guidance_scale, or states in float64"
        )
    return found.start, sampler


def _steps_back(
    problem: Problem, picture: Tensor, coupling: float, network: Network
) -> tuple[Tensor, Tensor]:
    """The states (y, z) at the first time from which `ReversibleEuler` arrives at `picture`."""
    c, calls, grid = coupling, problem.plan.network_calls, problem.plan.grid
    lengths = problem.schedule.rho(grid).diff().tolist()

    def noise(call: NetworkCall, y: Tensor) -> Tensor:
        return problem.evaluate(call, call.alpha * y, network)[1]

    y = z = picture / problem.schedule.alpha(grid)[-1].item()
    for k in reversed(range(len(lengths))):
        z = z - lengths[k] * noise(calls[2 * k + 1], y)
        y = (y - (1 - c) * z - lengths[k] * noise(calls[2 * k], z)) / c
    return y, z


def _solve_step(
    problem: Problem,
    call: NetworkCall,
    end: Tensor,
    length: float,
    iterations: int,
    tolerance: float,
    step: int,
) -> Tensor:
    def previous(y: Tensor) -> Tensor:
        return end - length * problem.evaluate(call, call.alpha * y)[1]

    y, former = end, None
    size = torch.inf
    for _ in range(iterations):
        target = previous(y)
        residual = target - y
        size = (norms(residual) / norms(target)).max().item()
        if size <= tolerance:
            return target
        mixed = target
        if former is not None:
            change = residual - former[1]
            share = dots(change, residual) / positive(dots(change, change))
            mixed = target - share.to(target.dtype) * (target - former[0])
        former, y = (target, residual), mixed
    raise ReversalError(
        f"the picture could not be inverted: step {step} did not converge in {iterations} "
        f"iterations (residual {size:.1e}, wanted {tolerance:.0e}); use a smaller guidance_scale "
        f"or more steps"
    )
