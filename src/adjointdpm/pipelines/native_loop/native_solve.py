"""The native solve that takes the place of a recorded loop."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.grids import check_grid
from adjointdpm.engine.numerics import at_least_float32
from adjointdpm.engine.plan import NetworkCall
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.samplers import DPMSolverPP, Euler, Sampler
from adjointdpm.engine.sampling import check_prediction
from adjointdpm.pipelines.native_loop.noise_levels import NotReplayable
from adjointdpm.pipelines.native_loop.recorded_loop import RecordedLoop
from adjointdpm.pipelines.native_loop.recorded_network import RecordedDenoiser, RecordedNetwork

REPEATING = (Euler(), DPMSolverPP(2))  # the native samplers that may repeat a scheduler
# Schedulers compute their coefficients in float32; another rule differs by more than a hundredth.
SAME_STEPS = 5e-4
OFF_THE_LINE = 2e-3  # some schedulers round the times that a network sees to whole numbers


def solve(
    loop: RecordedLoop,
    network: RecordedNetwork,
    sampler: Sampler | None,
    method: GradientMethod,
    dtype: torch.dtype,
) -> Float[Tensor, "rows *shape"]:
    """The state at the end of a loop, as its scheduler's last step would return it.

    Args:
        loop: complete.
        network: of its form.
        sampler: takes the loop's steps; None for the one that repeats its scheduler.
        method: how the solve is differentiated.
        dtype: of the result.

    Raises:
        NotReplayable: see `grid_of`, `conditioning` and `repeating_sampler`.
        AdjointDPMError: the method cannot differentiate this solve.

    """
    schedule, grid = loop.levels.schedule, grid_of(loop)
    sampler = repeating_sampler(loop) if sampler is None else sampler
    plan = sampler.plan(schedule, grid)
    denoiser = RecordedDenoiser(network, loop.levels.prediction)
    first, last = (plan.network_calls[i].time.detach() for i in (0, -1))
    check_prediction(denoiser, schedule, first, last)
    x = loop.form.base(loop.first.state)
    start = x.to(at_least_float32(x)) * loop.frame(loop.times[0])
    problem = Problem(denoiser, schedule, sampler, plan, start, conditioning(loop), None)
    solved = method.solve(problem) / loop.frame(loop.times[-1])
    return torch.cat([solved] * loop.form.copies).to(dtype)


def grid_of(loop: RecordedLoop) -> Float[Tensor, " times"]:
    """The times of the loop's steps, each once, and where the last one ends.

    Raises:
        NotReplayable: they do not decrease.

    """
    times = list(dict.fromkeys(loop.times))
    if any(later >= earlier for earlier, later in pairwise(times)):
        raise NotReplayable(f"the times of its steps do not decrease: {times}")
    return check_grid(torch.tensor(times, dtype=torch.float64), loop.levels.schedule)


def conditioning(loop: RecordedLoop) -> list[Tensor]:
    """What `RecordedNetwork` takes as `cond`.

    Raises:
        NotReplayable: a network sees the time in a form that is no line.

    """
    steps = dict(zip(loop.times[:-1], range(loop.steps), strict=True))
    known, end = sorted(steps), loop.times[-1]
    # The entry without noise before a table's first is none that the network knows.
    last = max(end, 1.0) if loop.levels.is_table else end
    columns = []
    for values in loop.values:
        column = [values[steps[t]] for t in known]
        slope = (column[-1] - column[0]) / (known[-1] - known[0])
        line = [column[0] + slope * (t - known[0]) for t in known]
        off = [abs(on - value) for on, value in zip(line, column, strict=True)]
        if max(off) > OFF_THE_LINE * max(map(abs, column)):
            raise NotReplayable("its network sees the time in a form that is no line")
        beyond = [column[0] + slope * (last - known[0])] if end < known[0] else []
        columns.append([*beyond, *column])
    times = [end, *known] if end < known[0] else known
    device = loop.first.state.device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    made = [torch.tensor(numbers, dtype=dtype, device=device) for numbers in (times, *columns)]
    weights = (loop.form.weights * loop.levels.sign).to(device, dtype)
    return [made[0], weights, *made[1:], *loop.form.constants]


def repeating_sampler(loop: RecordedLoop) -> Sampler:
    """The native sampler that takes the scheduler's steps, found by the run's own numbers.

    Raises:
        NotReplayable: there is none.

    """
    schedule, grid = loop.levels.schedule, grid_of(loop)
    denoiser = RecordedDenoiser(lambda x, t, cond: x, loop.levels.prediction)
    size = max(float(state.abs().max()) for state in loop.states)
    eps = torch.finfo(loop.first.state.dtype).eps
    slack = max(SAME_STEPS, 4 * eps * loop.steps**0.5) * size

    def evaluate(call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
        output = loop.outputs[call.step] * loop.levels.sign
        return denoiser.split(output, x, call.alpha, call.sigma)

    states: list[Tensor] = []

    def note(step: int, x: Tensor, denoised: Tensor) -> None:
        states.append(x)

    for sampler in REPEATING:
        states.clear()
        sampler.plan(schedule, grid).run(evaluate, loop.states[0], sampler.draw, note)
        # A last step from the table's first entry to itself changes nothing.
        states += states[-1:] * (loop.steps - len(states))
        pairs = zip(states, loop.states[1:], strict=True)
        if all(float((ours - theirs).abs().max()) <= slack for ours, theirs in pairs):
            return sampler
    raise NotReplayable(
        "this gradient method solves an ODE of its own, and no native sampler takes the steps of "
        f"{type(loop.levels.scheduler).__name__}; name one, such as sampler=adjointdpm.Euler()"
    )
