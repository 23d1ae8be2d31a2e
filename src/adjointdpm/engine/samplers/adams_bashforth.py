"""Linear multistep methods on the noise form of the probability-flow ODE."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.ode import Multistep
from adjointdpm.engine.plan import Plan
from adjointdpm.engine.plan_builder import Linear, PlanBuilder
from adjointdpm.engine.samplers.base import Sampler
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.errors import InvalidInputError


@dataclass(frozen=True)
class AdamsBashforth(Sampler):
    """Adams–Bashforth in the clock ρ with variable steps. N calls.

    This is PLMS (Liu et al. 2022, arXiv 2202.09778) without its Runge–Kutta start. It starts with
    orders 1, 2, … as velocities become available. The first step is Euler's, with a local error of
    O(h²). So the global order is 2 on a grid whose first interval shrinks no faster than the
    others, and `order` once the first order − 1 intervals are small.

    Args:
        order: 1 to 4; 1 is Euler.

    Raises:
        InvalidInputError: any other order.

    """

    order: int = 2

    def __post_init__(self) -> None:
        if type(self.order) is not int or self.order not in (1, 2, 3, 4):
            raise InvalidInputError(
                f"AdamsBashforth(order={self.order!r}): the order must be 1, 2, 3 or 4"
            )

    def plan(self, schedule: NoiseSchedule, grid: Float[Tensor, " times"]) -> Plan:
        plan = PlanBuilder(schedule, grid)
        x = plan.start
        history: list[tuple[Tensor, Linear]] = []  # (ρ, ε), newest first
        for now, then in pairwise(range(len(grid))):
            data, noise = plan.call(x, now)
            if bool(torch.isinf(plan.rho[now])):
                # At α = 0 the clock is infinite: one DDIM step, and no part in the history.
                x = plan.end_step(plan.alpha[then] * data + plan.sigma[then] * noise)
                continue
            history = [(plan.rho[now], noise), *history][: self.order]
            weights = self.integrator.weights(
                torch.stack([rho for rho, _ in history]), plan.rho[then]
            )
            step = Linear.sum(
                weight * velocity for weight, (_, velocity) in zip(weights, history, strict=True)
            )
            x = plan.end_step(plan.alpha[then] * (x / plan.alpha[now] + step))
        return plan.build()

    def calls(self, steps: int) -> int:
        return steps

    @property
    def integrator(self) -> Multistep:
        return Multistep(self.order)
