"""Runge–Kutta methods on the probability-flow ODE in any of its three forms, and their adjoints.

The library's own samplers and `Adjoint` use the noise form; the other forms exist here to be
compared with it.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import adjointdpm as adj
from adjointdpm.engine.ode import Form, Tableau
from adjointdpm.engine.plan import Plan
from adjointdpm.engine.samplers.runge_kutta import RungeKutta, runge_kutta_plan
from adjointdpm.engine.tree import Tree


class TimeForm(Form):
    """u = x with the clock t: velocity α̇ x̂_0 + σ̇ ε.

    Finite everywhere for flow matching, and stiff for variance-preserving schedules.
    """

    def clock(self, schedule: adj.NoiseSchedule, t: Tensor) -> Tensor:
        return t

    def time(self, schedule: adj.NoiseSchedule, clock: Tensor) -> Tensor:
        return clock

    def scale(self, schedule: adj.NoiseSchedule, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def velocity(self, schedule: adj.NoiseSchedule, t: Tensor, data: Any, noise: Any) -> Any:
        alpha_rate, sigma_rate = schedule.derivatives(t)
        return float(alpha_rate) * data + float(sigma_rate) * noise


TIME = TimeForm()


@dataclass(frozen=True)
class InForm(RungeKutta):
    """The sampler that is `tableau` in `form`."""

    tableau: Tableau
    form: Form

    @property
    def integrator(self) -> Tableau:
        return self.tableau

    def plan(self, schedule: adj.NoiseSchedule, grid: Float[Tensor, " steps+1"]) -> Plan:
        return runge_kutta_plan(self.tableau, schedule, grid, self.form)


def adjoint(
    denoiser: adj.Denoiser,
    schedule: adj.NoiseSchedule,
    sampler: InForm,
    grid: Tensor,
    cond: Tree,
    x: Tensor,
    gradient: Tensor,
) -> Tensor:
    """∂L/∂x_T from x_0 = `x` and ∂L/∂x_0 = `gradient`.

    State and costate are solved back together, from the last time of `grid` to its first.

    With u = x / scale, du/dτ = v(u, τ) and a = ∂L/∂u = scale · ∂L/∂x it is da/dτ = −aᵀ ∂v/∂u.
    """
    form, tableau = sampler.form, sampler.tableau
    for end, start in pairwise(grid.flip(0)):
        h = (form.clock(schedule, start) - form.clock(schedule, end)).item()
        scale = form.scale(schedule, end).item()
        u, a = x / scale, gradient * scale
        velocities: list[Tensor] = []
        pullbacks: list[Tensor] = []
        for t, row in zip(tableau.stage_times(form, schedule, end, start), tableau.a, strict=True):
            stage_u = u + sum(h * c * v for c, v in zip(row, velocities, strict=True))
            stage_a = a - sum(h * c * p for c, p in zip(row, pullbacks, strict=True))
            velocity, pullback = _velocity(denoiser, schedule, form, t, stage_u, stage_a, cond)
            velocities.append(velocity)
            pullbacks.append(pullback)
        u = u + sum(h * c * v for c, v in zip(tableau.b, velocities, strict=True))
        a = a - sum(h * c * p for c, p in zip(tableau.b, pullbacks, strict=True))
        scale = form.scale(schedule, start).item()
        x, gradient = u * scale, a / scale
    return gradient


def _velocity(
    denoiser: adj.Denoiser,
    schedule: adj.NoiseSchedule,
    form: Form,
    t: Tensor,
    u: Tensor,
    a: Tensor,
    cond: Tree,
) -> tuple[Tensor, Tensor]:
    """The velocity v and aᵀ ∂v/∂u."""
    alpha, sigma, scale = (
        schedule.alpha(t).item(),
        schedule.sigma(t).item(),
        form.scale(schedule, t).item(),
    )
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        x = u * scale
        output = denoiser(x, t.to(torch.promote_types(x.dtype, torch.float32)).expand(len(x)), cond)
        velocity = form.velocity(schedule, t, *denoiser.split(output, x, alpha, sigma))
        (pullback,) = torch.autograd.grad(velocity, u, a)
    return velocity.detach(), pullback
