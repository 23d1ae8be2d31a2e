"""DPM-Solver++, the multistep data-prediction solver that most Stable Diffusion users run."""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.plan import Plan
from adjointdpm.engine.plan_builder import Linear, PlanBuilder
from adjointdpm.engine.samplers.base import Sampler
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.errors import InvalidInputError

# Below this many steps a first-order last step is more stable: diffusers' lower_order_final does
# the same.
FEW_STEPS = 15


@dataclass(frozen=True)
class DPMSolverPP(Sampler):
    """DPM-Solver++(2M), equal to diffusers' DPMSolverMultistepScheduler. Order 2, N calls.

    Lu et al. 2022, arXiv 2211.01095, algorithm 2. The first step is of first order, and so is the
    last one if there are fewer than 15 steps or if it ends at σ = 0.

    Args:
        order: 2, or 1 for DDIM.

    Raises:
        InvalidInputError: any other order.

    """

    order: int = 2

    def __post_init__(self) -> None:
        if type(self.order) is not int or self.order not in (1, 2):
            raise InvalidInputError(f"DPMSolverPP(order={self.order!r}): the order must be 1 or 2")

    def plan(self, schedule: NoiseSchedule, grid: Float[Tensor, " times"]) -> Plan:
        plan = PlanBuilder(schedule, grid)
        x, steps = plan.start, len(grid) - 1
        log_snr = [-rho.log() for rho in plan.rho]
        previous: Linear | None = None
        for now, then in pairwise(range(steps + 1)):
            data, _ = plan.call(x, now)
            lower_order = self.order == 1 or (
                then == steps and (steps < FEW_STEPS or bool(plan.sigma[then] == 0))
            )
            target = data
            # If the previous step started at α = 0, its length in log-SNR is infinite and the slope
            # is 0.
            if previous is not None and not lower_order and bool(log_snr[now - 1].isfinite()):
                ratio = (log_snr[then] - log_snr[now]) / (log_snr[now] - log_snr[now - 1])
                target = data + (ratio / 2) * (data - previous)
            decay = plan.sigma[then] / plan.sigma[now]
            x = plan.end_step(decay * x + (plan.alpha[then] - decay * plan.alpha[now]) * target)
            previous = data
        return plan.build()

    def calls(self, steps: int) -> int:
        return steps
