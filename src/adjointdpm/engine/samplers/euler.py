"""Euler's method in the noise form, which is DDIM."""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.ode import EULER, Integrator
from adjointdpm.engine.plan import Plan
from adjointdpm.engine.plan_builder import PlanBuilder
from adjointdpm.engine.samplers.base import Sampler
from adjointdpm.engine.schedules import NoiseSchedule


@dataclass(frozen=True)
class Euler(Sampler):
    """DDIM with η = 0: x' = α' x̂_0 + σ' ε (Song et al. 2021, arXiv 2010.02502, eq. 12).

    For flow matching the same formula is plain Euler in t. Order 1, N calls.
    """

    def plan(self, schedule: NoiseSchedule, grid: Float[Tensor, " times"]) -> Plan:
        plan = PlanBuilder(schedule, grid)
        x = plan.start
        for now, then in pairwise(range(len(grid))):
            data, noise = plan.call(x, now)
            x = plan.end_step(plan.alpha[then] * data + plan.sigma[then] * noise)
        return plan.build()

    def calls(self, steps: int) -> int:
        return steps

    @property
    def integrator(self) -> Integrator:
        return EULER
