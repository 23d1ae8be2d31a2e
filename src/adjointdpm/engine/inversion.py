"""From a picture back to the noise that the sampler would make it from."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.numerics import dots, finest_dtype, norms, positive
from adjointdpm.engine.plan import NetworkCall
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.samplers.reversible import ReversibleEuler
from adjointdpm.errors import ReversalError, UnsupportedError


@torch.no_grad()
def invert_euler(
    problem: Problem, iterations: int = 50, tolerance: float = 1e-5
) -> Float[Tensor, "batch *shape"]:
    """The x_T from which Euler's steps (DDIM's) arrive at `problem.start`, taken as x_0.

    A step is y' = y + (ρ' − ρ) ε(y, t) with y = x/α. DDIM inversion (Song et al. 2021, arXiv
    2010.02502, section 4.3) puts y' for the unknown y in ε, which is right for infinitely small
    steps only. Here y is solved for, iterating y ← y' − (ρ' − ρ) ε(y, t) as in Pan et al. (2023,
    arXiv 2309.04907), with Anderson's mixing of the last two iterates, so that the sampler really
    returns to the picture.

    Args:
        problem: the sampling problem of an Euler plan, with x_0 as its start.
        iterations: network calls for each step at most.
        tolerance: of each step, the largest root mean square residual of a sample relative to its
            state.

    Raises:
        ReversalError: a step's iteration does not converge; stronger guidance and fewer steps make
            it worse.

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
    """The x_T and the sampler, with its gap, from which `ReversibleEuler` arrives at
    `problem.start`, taken as x_0.

    Its steps are solved for (y, z) one after the other from y = z at the picture, 2N network calls
    without any iteration; then they are taken forwards again, another 2N calls, and what arrives is
    compared with the picture. Rounding is all that differs, multiplied by 1/coupling a step. With
    states in float64 even a float32 network sees the same inputs again, nearly always to the bit.

    Args:
        problem: the sampling problem of a `ReversibleEuler` plan without a gap, with x_0 as its
            start.
        tolerance: the largest relative error of a sample that is drawn again.
        dtype: of the states and the result. None: float64 where the device has it, and the
            picture's own if the network is a function, which need not take float64 (a module is
            given its inputs in its own precision).

    Returns:
        x_T (as `sample` takes it after division by `schedule.initial_scale`), and the sampler to
        draw it again with on the same grid.

    Raises:
        UnsupportedError: another sampler.
        ReversalError: another picture arrives, or none: the steps are too large, or rounding too
            coarse for them.

    """
    sampler = problem.sampler
    if not isinstance(sampler, ReversibleEuler):
        raise UnsupportedError(
            f"invert_reversible needs sampler=ReversibleEuler(), not {sampler!r}, whose steps "
            f"cannot be run backwards"
        )
    c, calls = sampler.coupling, problem.plan.network_calls
    alpha, lengths = (
        problem.schedule.alpha(problem.plan.grid).tolist(),
        problem.schedule.rho(problem.plan.grid).diff().tolist(),
    )
    if dtype is None:
        dtype = (
            finest_dtype(problem.start)
            if isinstance(problem.denoiser.network, nn.Module)
            else problem.start.dtype
        )
    own = problem.start.dtype
    picture = problem.start.to(dtype)

    def network(x: Tensor, *rest: Any) -> Tensor:
        # Autocast leaves float64 alone, which a module's weights are not in.
        autocast = torch.is_autocast_enabled(x.device.type)
        return problem.denoiser(x.to(own) if autocast else x, *rest).to(x.dtype)

    def noise(call: NetworkCall, y: Tensor) -> Tensor:
        return problem.evaluate(call, call.alpha * y, network)[1]

    y = z = picture / alpha[-1]
    for k in reversed(range(len(lengths))):
        z = z - lengths[k] * noise(calls[2 * k + 1], y)
        y = (y - (1 - c) * z - lengths[k] * noise(calls[2 * k], z)) / c
    sampler = replace(sampler, gap=(y - z) * alpha[0])
    found = replace(
        problem,
        start=z * alpha[0],
        sampler=sampler,
        plan=sampler.plan(problem.schedule, problem.plan.grid),
        callback=None,
    )
    error = (norms(found.run(network) - picture) / norms(picture)).max().item()
    if not error <= tolerance:  # not a number is an error too
        raise ReversalError(
            f"the picture could not be inverted: drawn again, it is {error:.1e} (relative) away "
            f"from itself, more than {tolerance:.0e}; take grids.log_snr, more steps, another "
            f"coupling, a smaller guidance_scale, or states in float64"
        )
    return found.start, sampler


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
