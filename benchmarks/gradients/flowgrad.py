"""FlowGrad's rule for where to save vector-Jacobian products.

It merges the steps in which the trajectory is straight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.gradients.autograd.custom_backward import BackwardSolve, solve_with
from adjointdpm.engine.plan import NetworkCall
from adjointdpm.engine.problem import Problem


@dataclass(frozen=True)
class FlowGrad(GradientMethod):
    """Non-uniform few-VJP adjoint of FlowGrad, in the noise form.

    It is by Liu et al., CVPR 2023 (doi 10.1109/CVPR52729.2023.02331).

    The sampler's N steps are gathered into M runs of neighbours in which the velocity hardly
    changes, and the adjoint takes one step over each: a ← a + h (∂v/∂y)ᵀ a at the stored state that
    the run starts from, h its whole length. Step i costs max(‖v_(i−1) − v_i‖², ‖v_(i+1) − v_i‖²) /
    ‖v_i‖²; a run ends with the step that takes its sum over a threshold. This is the rule of the
    authors' code (github.com/gnobitab/FlowGrad), which runs it on rectified flows with velocities
    in time. Here v = ε in the clock ρ, where the sampler's linear part is solved already, so that
    on all N steps the result is the exact gradient of DDIM; their comparison of the first step with
    the last one, an index −1, is left out; and instead of being given, the threshold is the
    smallest that leaves at most M runs, so that methods meet at the same cost. The rule sums over a
    batch: it means one picture at a time.

    Args:
        vjps: M.

    """

    vjps: int

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Sample without a graph; runs are chosen from the outputs seen on the way."""
        return solve_with(_Backward(problem, self.vjps), problem)


class _Backward(BackwardSolve):
    def __init__(self, problem: Problem, vjps: int) -> None:
        super().__init__(problem)
        self.vjps = vjps
        self.states: list[Tensor] = []
        self.velocities: list[Tensor] = []

    def sample(self) -> Tensor:
        def evaluate(call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
            data, noise = self.evaluate(call, x)
            if call.step == len(
                self.states
            ):  # the first call of a step sees the state that it starts from
                self.states.append(x)
                self.velocities.append(noise)
            return data, noise

        with torch.no_grad():
            return self.problem.execute(evaluate)

    def costate(self, result: Tensor, gradient: Tensor, noise_wanted: bool) -> Tensor:
        problem, grid = self.problem, self.problem.plan.grid
        alpha, sigma, rho = (
            f(grid).tolist()
            for f in (problem.schedule.alpha, problem.schedule.sigma, problem.schedule.rho)
        )
        a = gradient * alpha[-1]  # ∂L/∂y, y = x/α
        ends = [*straight_runs(step_costs(self.velocities), self.vjps), len(grid) - 1]
        for start, end in reversed(list(pairwise(ends))):
            h = rho[end] - rho[start]
            with torch.enable_grad():
                y = (self.states[start] / alpha[start]).requires_grad_()
                x = y * alpha[start]
                _, noise = problem.denoiser.split(
                    self.network(x, grid[start]), x, alpha[start], sigma[start]
                )
            pulled, *found = torch.autograd.grad(noise, [y, *self.wanted], a, allow_unused=True)
            self.add(found, h)
            a = a if pulled is None else a + h * pulled
        return a / alpha[0]


def step_costs(velocities: Sequence[Tensor]) -> list[float]:
    """How much each step's velocity differs from its neighbours', squared and relative."""
    squares = [(a - b).double().square().sum().item() for a, b in pairwise(velocities)]
    lengths = [v.double().square().sum().item() for v in velocities]
    return [
        max([*squares[max(0, i - 1) : i], *squares[i : i + 1]], default=0.0) / length
        for i, length in enumerate(lengths)
    ]


def straight_runs(costs: Sequence[float], count: int) -> list[int]:
    """The first steps of at most `count` runs.

    Bisection finds the smallest threshold that allows it.
    """

    def runs(threshold: float) -> list[int]:
        starts, total = [0], 0.0
        for i, cost in enumerate(costs[:-1]):
            total += cost
            if total > threshold:
                starts.append(i + 1)
                total = 0.0
        return starts

    low, high = -1.0, sum(costs)
    if len(runs(low)) <= count:
        return runs(low)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if len(runs(middle)) <= count else (middle, high)
    return runs(high)
