"""Grids: N + 1 strictly decreasing times in the schedule's unit, noise first, data last."""

import math
from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.schedules import NoiseSchedule, TableSchedule
from adjointdpm.errors import GridError, InvalidInputError, InvalidTypeError, ScheduleError
from adjointdpm.support.argument_types import explain_types
from adjointdpm.support.limits import check_count

# Where ρ is infinite at t_max, grids that are spaced in ρ start at t_max itself and use this value
# (SNR 1e-6) for its ρ.
RHO_CEILING = 1e3


def karras(schedule: NoiseSchedule, steps: int, rho: float = 7.0) -> Float[Tensor, " {steps}+1"]:
    """The default grid: uniform in ρ^(1/7), dense near the data.

    Karras et al. 2022, arXiv 2206.00364, eq. 5.

    Args:
        schedule: where t_max, t_min and ρ(t) come from.
        steps: N, the number of intervals.
        rho: the exponent, above 0. This is its usual name; it is not the noise-to-signal ratio.

    Raises:
        InvalidInputError: fewer than one step, or an exponent that is not positive and finite.
        InvalidTypeError: `steps` is not an int, the exponent is not a number, or `schedule` is not
            a `NoiseSchedule`.
        GridError: there are so many steps that neighbouring times coincide.

    """
    _check(schedule, steps)
    if isinstance(rho, bool) or not isinstance(rho, Real):
        raise InvalidTypeError(f"karras(rho={rho!r}): the exponent must be a number")
    if not 0 < rho < math.inf:
        raise InvalidInputError(f"karras(rho={rho}): the exponent must be positive")
    noisy, clean = _rho_ends(schedule)
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return _between_ends(
        schedule, (noisy ** (1 / rho) + ramp * (clean ** (1 / rho) - noisy ** (1 / rho))) ** rho
    )


def log_snr(schedule: NoiseSchedule, steps: int) -> Float[Tensor, " {steps}+1"]:
    """Uniform in λ = log(α/σ) (Lu et al. 2022, arXiv 2206.00927).

    Raises:
        ScheduleError: the schedule ends at σ = 0, where λ is infinite.
        InvalidInputError, InvalidTypeError, GridError: as for `karras`.

    """
    _check(schedule, steps)
    noisy, clean = _rho_ends(schedule)
    if clean == 0:
        raise ScheduleError(
            f"log_snr: σ is 0 at t = {schedule.t_min}, where the log-SNR is infinite; use karras "
            f"or linspace"
        )
    return _between_ends(
        schedule,
        torch.exp(
            torch.linspace(noisy.log().item(), clean.log().item(), steps + 1, dtype=torch.float64)
        ),
    )


def linspace(schedule: NoiseSchedule, steps: int) -> Float[Tensor, " {steps}+1"]:
    """Uniform in time from t_max to t_min, like diffusers' `timestep_spacing="linspace"`.

    Times of a table are rounded to its entries.

    Raises:
        InvalidInputError, InvalidTypeError, GridError: as for `karras`.

    """
    _check(schedule, steps)
    uniform = torch.linspace(schedule.t_max, schedule.t_min, steps + 1, dtype=torch.float64)
    return check_grid(
        uniform.round() if isinstance(schedule, TableSchedule) else schedule.warp(uniform), schedule
    )


def leading(schedule: NoiseSchedule, steps: int, offset: int = 1) -> Float[Tensor, " {steps}+1"]:
    """Multiples of ⌊T/N⌋ plus `offset`, then t = 0, like diffusers' "leading" spacing.

    `offset` is diffusers' `steps_offset`. This is the default of Stable Diffusion 1.x. For
    schedules without a table it is the same as `linspace`.

    Raises:
        InvalidInputError, InvalidTypeError, GridError: as for `karras`; also an offset below 1,
            which would visit t = 0 twice.

    """
    _check(schedule, steps)
    if not isinstance(schedule, TableSchedule):
        return linspace(schedule, steps)
    entries = len(schedule.alphas_cumprod)
    stride = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (entries // steps) + offset
    return check_grid(torch.cat([stride, torch.zeros(1, dtype=torch.float64)]), schedule)


def trailing(schedule: NoiseSchedule, steps: int) -> Float[Tensor, " {steps}+1"]:
    """T, T − T/N, … minus one, then t = 0, like diffusers' "trailing" spacing.

    It starts at the noisiest entry. For schedules without a table it is the same as `linspace`.

    Raises:
        InvalidInputError, InvalidTypeError, GridError: as for `karras`.

    """
    _check(schedule, steps)
    if not isinstance(schedule, TableSchedule):
        return linspace(schedule, steps)
    entries = len(schedule.alphas_cumprod)
    stride = (entries - torch.arange(steps, dtype=torch.float64) * (entries / steps)).round() - 1
    return check_grid(torch.cat([stride, torch.zeros(1, dtype=torch.float64)]), schedule)


def check_steps(steps: int) -> None:
    """Raise InvalidTypeError or InvalidInputError unless `steps` is a number of sampler steps."""
    check_count("steps", steps)


def _check(schedule: NoiseSchedule, steps: int) -> None:
    if not isinstance(schedule, NoiseSchedule):
        raise InvalidTypeError(
            f"schedule={schedule!r} must be a NoiseSchedule, for example "
            f"NoiseSchedule.from_scheduler(pipe.scheduler)"
        )
    check_steps(steps)


def check_grid(grid: Tensor, schedule: NoiseSchedule) -> Float[Tensor, " times"]:
    """Return `grid` as float64 on the CPU, differentiably.

    Raises:
        InvalidTypeError: `grid` is not a tensor of numbers.
        GridError: it is not 1-D, has fewer than two times, is not finite or not strictly
            decreasing, or leaves [t_min, t_max] of the schedule.

    """
    if not isinstance(grid, Tensor) or grid.is_complex() or grid.dtype == torch.bool:
        raise InvalidTypeError(f"grid must be a tensor of times, not {type(grid).__name__}")
    if grid.ndim != 1 or len(grid) < 2:
        raise GridError(
            f"grid has shape {tuple(grid.shape)}; it must be 1-D with N + 1 >= 2 times, noise first"
        )
    times = grid.to("cpu", torch.float64)
    if not bool(torch.isfinite(times).all()):
        raise GridError("grid holds NaN or infinite times")
    rising = torch.nonzero(times.detach().diff() >= 0)
    if len(rising):
        i = int(rising[0])
        raise GridError(
            f"grid must strictly decrease from noise to data, but grid[{i + 1}] = "
            f"{times[i + 1].item():g} is not below grid[{i}] = {times[i].item():g}"
        )
    low, high = schedule.t_min, schedule.t_max
    slack = 1e-6 * max(abs(low), abs(high))  # a float32 grid rounds the ends
    if times[0].item() > high + slack or times[-1].item() < low - slack:
        raise GridError(
            f"grid spans [{times[-1].item():g}, {times[0].item():g}] and leaves the schedule, "
            f"which covers [{low:g}, {high:g}]"
        )
    return times.clamp(low, high)


def _rho_ends(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    ends = schedule.rho(torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64))
    return ends[0].clamp(max=RHO_CEILING) if bool(torch.isinf(ends[0])) else ends[0], ends[1]


def _between_ends(schedule: NoiseSchedule, rho: Tensor) -> Tensor:
    """The times of `rho`, with both ends set exactly to the schedule's own."""
    times = schedule.time(rho)
    times[0], times[-1] = schedule.t_max, schedule.t_min
    return check_grid(times, schedule)


explain_types(globals(), ("karras", "log_snr", "linspace", "leading", "trailing"))
