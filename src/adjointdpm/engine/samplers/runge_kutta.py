"""One-step Runge–Kutta methods on the noise form of the probability-flow ODE."""

from abc import abstractmethod
from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.ode import (
    HEUN,
    MIDPOINT,
    RUNGE_KUTTA_4,
    Form,
    Tableau,
    regular_form,
)
from adjointdpm.engine.plan import Plan
from adjointdpm.engine.plan_builder import Linear, PlanBuilder
from adjointdpm.engine.samplers.base import Sampler
from adjointdpm.engine.schedules import NoiseSchedule


class RungeKutta(Sampler):
    """Steps of a Butcher tableau in u = x/α with the clock ρ.

    A first interval that starts at α = 0 is solved in the data form.
    """

    @property
    @abstractmethod
    def integrator(self) -> Tableau: ...

    def calls(self, steps: int) -> int:
        return steps * len(self.integrator.c)

    def plan(self, schedule: NoiseSchedule, grid: Float[Tensor, " times"]) -> Plan:
        return runge_kutta_plan(self.integrator, schedule, grid)


def runge_kutta_plan(
    tableau: Tableau,
    schedule: NoiseSchedule,
    grid: Float[Tensor, " times"],
    form: Form | None = None,
) -> Plan:
    """The plan of a tableau on the ODE in `form`; None: the noise form wherever it is finite."""
    plan = PlanBuilder(schedule, grid)
    x = plan.start
    for start, end in pairwise(grid):
        here = form or regular_form(schedule, start)
        u = x / here.scale(schedule, start)
        h = here.clock(schedule, end) - here.clock(schedule, start)
        velocities: list[Linear] = []
        for t, row in zip(tableau.stage_times(here, schedule, start, end), tableau.a, strict=True):
            stage = u + Linear.sum(h * a * v for a, v in zip(row, velocities, strict=True) if a)
            data, noise = plan.call_at(stage * here.scale(schedule, t) if row else x, t)
            velocities.append(here.velocity(schedule, t, data, noise))
        step = Linear.sum(h * b * v for b, v in zip(tableau.b, velocities, strict=True) if b)
        x = plan.end_step((u + step) * here.scale(schedule, end))
    return plan.build()


@dataclass(frozen=True)
class Heun(RungeKutta):
    """Heun's method, the trapezoidal rule with an Euler predictor. Order 2, 2N calls.

    Karras et al. 2022, arXiv 2206.00364, algorithm 1. The last step calls the network at the grid's
    last time, so the grid must not end at σ = 0 if the network predicts the sample.
    """

    @property
    def integrator(self) -> Tableau:
        return HEUN


@dataclass(frozen=True)
class Midpoint(RungeKutta):
    """The explicit midpoint rule, with its stage at the time halfway in ρ.

    Order 2, 2N calls.
    """

    @property
    def integrator(self) -> Tableau:
        return MIDPOINT


@dataclass(frozen=True)
class RungeKutta4(RungeKutta):
    """The classical fourth-order method. Order 4, 4N calls."""

    @property
    def integrator(self) -> Tableau:
        return RUNGE_KUTTA_4
