"""Which network calls compute a vector-Jacobian product, and how others lie between them."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.plan import (
    Costates,
    Instruction,
    NetworkCall,
    Update,
    split_steps,
    transpose,
)
from adjointdpm.engine.problem import Problem
from adjointdpm.errors import UnsupportedError

# Multistep coefficients of a call's x̂_0 may have both signs. If their sum is below this share of
# their sizes, the call says little about its neighbours.
CANCELLING = 0.3


class Nodes:
    """The nodes of a solve: the steps at whose calls the network is differentiated.

    All stages of a step are differentiated, or none. Calls of one stage are interpolated among
    themselves, since the stages of a Runge–Kutta step do not lie on one curve.

    Args:
        problem: the problem.
        vjps: M, the most calls that are differentiated, but at least one whole step is.

    Attributes:
        steps: the plan's instructions, a tuple a step.
        calls: the network calls of each step, in their order: one a stage.
        stages: the most calls that a step has.
        place: (step, stage) of a call, by the register of its x̂_0.
        chosen: the nodes, increasing.
        log_rho: of every call, by the same register.
        from_infinity: whether the solve starts without signal (α = 0), where ρ is infinite.
        beta: by the same register, the sum of the coefficients that take ∂L/∂y after the steps to
            the costate of the call's x̂_0, y = x/α.

    """

    def __init__(self, problem: Problem, vjps: int) -> None:
        self.steps = split_steps(problem.plan)
        self.calls = [[i for i in step if isinstance(i, NetworkCall)] for step in self.steps]
        if not all(self.calls):
            raise UnsupportedError(
                f"Interpolated needs a network call in every step, and {problem.sampler!r} has "
                f"steps without; use Checkpoint()"
            )
        self.stages = max(map(len, self.calls))
        self.place = {
            call.data: (step, stage)
            for step, calls in enumerate(self.calls)
            for stage, call in enumerate(calls)
        }
        self.log_rho = _log_rho(problem)
        self.from_infinity = float(self.calls[0][0].alpha) == 0
        parts = _coefficients(problem, self.steps)
        self.beta = {data: part.sum().item() for data, part in parts.items()}
        self._cancelling = {
            data
            for data, part in parts.items()
            if abs(self.beta[data]) < CANCELLING * part.abs().sum().item()
        }
        positions = _positions([-self.log_rho[calls[0].data] for calls in self.calls])
        self.chosen = choose_nodes(positions, vjps * len(self.steps) // problem.plan.calls)

    def can_interpolate(self, step: int, stage: int) -> bool:
        """Whether the product at this call says something about the calls beside it."""
        call = self.calls[step][stage]
        return (
            call.data not in self._cancelling
            and self.beta[call.data] != 0
            and float(call.alpha) != 0 != float(call.sigma)
        )

    def line(self, step: int, stage: int, known: Sequence[int]) -> list[tuple[int, float]]:
        """The weights of known nodes in a linear interpolation in log ρ to this call.

        Beyond the ends it is the nearest node alone.
        """
        later, earlier = (
            min((n for n in known if n >= step), default=None),
            max((n for n in known if n <= step), default=None),
        )
        if later is None or earlier is None or later == earlier:
            return [
                (node, 1.0)
                for node in (later, earlier)[: 1 if later is not None else 2]
                if node is not None
            ]
        share = self.between(step, stage, later, earlier)
        return [(later, share), (earlier, 1 - share)]

    def curve(self, step: int, stage: int, known: Sequence[int]) -> list[tuple[int, float]]:
        """As `line`, but a parabola through a third node behind, where there is one."""
        line = self.line(step, stage, known)
        further = (
            min((n for n in known if n > line[0][0]), default=None) if len(line) == 2 else None
        )
        if further is None:
            return line
        points = [line[0][0], line[1][0], further]
        here, *at = (self.log_rho[self.calls[n][stage].data] for n in (step, *points))
        if len(set(at)) < 3:
            return line
        weights = [math.prod((here - q) / (p - q) for q in at if q != p) for p in at]
        return list(zip(points, weights, strict=True))

    def between(self, step: int, stage: int, a: int, b: int) -> float:
        """The weight of node `a` on a line in log ρ through nodes `a` and `b`."""
        here, at_a, at_b = (self.log_rho[self.calls[n][stage].data] for n in (step, a, b))
        return 0.5 if at_a == at_b else (here - at_b) / (at_a - at_b)


def choose_nodes(positions: Sequence[float], count: int) -> list[int]:
    """`count` distinct indices of the increasing `positions`, as uniform as possible.

    The last is always among them; the first is, if `count` is at least 2.
    """
    count = min(max(1, count), len(positions))
    if count == 1:
        return [len(positions) - 1]
    chosen: list[int] = []
    for i in range(count):
        target = positions[0] + (positions[-1] - positions[0]) * i / (count - 1)
        candidates = range(chosen[-1] + 1 if chosen else 0, len(positions) - count + i + 1)
        chosen.append(min(candidates, key=lambda k: abs(positions[k] - target)))
    return chosen


def _positions(log_snr: Sequence[float]) -> list[float]:
    """The mean of log SNR and the number, each scaled to [0, 1].

    Uniform log SNR alone leaves long gaps among the noisy calls, which decide on the picture.
    """
    span, last = log_snr[-1] - log_snr[0] or 1.0, len(log_snr) - 1 or 1
    return [(value - log_snr[0]) / span + i / last for i, value in enumerate(log_snr)]


def _log_rho(problem: Problem) -> dict[int, float]:
    """Log ρ of every call; where it is infinite, one unit beyond the last finite value."""
    calls = problem.plan.network_calls
    values = problem.schedule.rho(torch.stack([call.time for call in calls])).log()
    finite = values[values.isfinite()]
    if not len(finite):
        return {call.data: 0.0 for call in calls}
    return dict(
        zip(
            [call.data for call in calls],
            values.clamp(finite.min() - 1, finite.max() + 1).tolist(),
            strict=True,
        )
    )


def _coefficients(
    problem: Problem, steps: Sequence[Sequence[Instruction]]
) -> dict[int, Float[Tensor, " steps"]]:
    """By call, the parts of β, one for each step.

    A part is the costate of the call's x̂_0 if ∂L/∂y were 1 after that step and ∂x̂_0/∂y = 1.
    """
    plan = problem.plan
    none = torch.zeros(len(steps), dtype=torch.float64)
    # Stays 0 where the results of a call are not used.
    found = {call.data: none for call in plan.network_calls}
    alphas = problem.schedule.alpha(plan.grid).tolist()

    def pull(call: NetworkCall, data: Tensor | None, noise: Tensor | None) -> Tensor:
        alpha, sigma = float(call.alpha), float(call.sigma)
        direct = noise / sigma if noise is not None and sigma != 0 else none
        found[call.data] = (none if data is None else data) - alpha * direct
        return direct + (found[call.data] / alpha if alpha != 0 else none)

    costates: Costates = {}
    for k in reversed(range(len(steps))):
        end = steps[k][-1]
        assert isinstance(end, Update)
        costates[end.output] = none.index_fill(0, torch.tensor(k), 1 / alphas[k + 1])
        transpose(steps[k], costates, pull)
    return found
