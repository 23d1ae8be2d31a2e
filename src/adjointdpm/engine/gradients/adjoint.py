"""The continuous adjoint: a second ODE, solved from the picture back to the noise."""

import math
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients.autograd.custom_backward import BackwardSolve, solve_with
from adjointdpm.engine.gradients.base import GradientMethod
from adjointdpm.engine.gradients.trajectory import Trajectory
from adjointdpm.engine.grids import check_steps
from adjointdpm.engine.ode import EULER, NOISE, Form, Integrator, Multistep, Tableau, regular_form
from adjointdpm.engine.plan import NetworkCall
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.samplers.base import Sampler
from adjointdpm.errors import AdjointDPMWarning, ScheduleError, UnknownNameError, UnsupportedError

States = Literal["solved", "stored"]


@dataclass(frozen=True)
class Adjoint(GradientMethod):
    """Gradient of the probability-flow ODE's solution, as published in AdjointDPM.

    arXiv 2307.10711, eq. 9 to 12. In the noise form, with the costate a = ∂L/∂y and y = x/α, the
    augmented ODE from the picture (small ρ) to the noise (large ρ) is

        dy/dρ = ε(αy, t(ρ), c),   da/dρ = −aᵀ ∂ε/∂y,
        ∂L/∂c = −∫ aᵀ ∂ε/∂c dρ,   ∂L/∂θ = −∫ aᵀ ∂ε/∂θ dρ.

    It differs from the exact gradient of the N sampler steps by the discretisation error of both
    solves. That is large for first-order solvers on grids uniform in time, and small for second
    order on a Karras or log-SNR grid. `Checkpoint` is exact, with the same memory and no more
    network work. This method is here because it is the published one, and because its `steps` can
    be fewer than the sampler's.

    A network that draws random numbers (dropout in training mode) is not an ODE, and causes a
    warning. The exception is the transpose of Euler steps, which repeats the sampler's draws.

    Args:
        states: "solved" stores nothing and solves the state back together with the costate.
            "stored" keeps the N states of the sampler (latents, not graphs) and reads them. For
            Euler it calls the network at the noisier end of each interval. That is the transpose
            of the DDIM step, and so equals the exact gradient on the forward grid. Stages between
            stored states read a cubic Hermite interpolation.
        sampler: the method that solves backwards: Euler, Heun, Midpoint, RungeKutta4 or
            AdamsBashforth. None takes the forward sampler.
        steps: the number of intervals of its own grid. None takes the forward grid. A smaller
            number than the sampler's takes a subset of its times.

    Raises:
        UnknownNameError: `states` is neither word.
        UnsupportedError: `sampler` is not one of those named above.
        InvalidInputError, InvalidTypeError: `steps` is not an int of at least 1.

    """

    states: States = "solved"
    sampler: Sampler | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.states not in get_args(States):
            raise UnknownNameError(
                f'Adjoint(states={self.states!r}) is unknown; choose "solved" or "stored"'
            )
        if self.sampler is not None and (
            not isinstance(self.sampler, Sampler) or self.sampler.integrator is None
        ):
            raise UnsupportedError(
                f"Adjoint(sampler={self.sampler!r}) cannot solve the adjoint ODE; "
                "choose Euler, Heun, Midpoint, RungeKutta4 or AdamsBashforth"
            )
        if self.steps is not None:
            check_steps(self.steps)

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Sample without a graph; the adjoint ODE runs in the backward pass."""
        integrator = self._integrator(problem)
        grid = self._grid(problem)
        if (
            math.isinf(problem.schedule.rho(grid[0]))
            and float(problem.schedule.sigma(grid[1])) == 0
        ):
            raise ScheduleError(
                f"one interval of the adjoint's grid goes from t = {grid[0].item():g}, where there "
                f"is no signal, to {grid[1].item():g}, where there is no noise, and no form of the "
                f"ODE is finite at both; take more steps, or Checkpoint()"
            )
        return solve_with(_Backward(problem, integrator, grid, self.states == "stored"), problem)

    def _integrator(self, problem: Problem) -> Integrator:
        forward = problem.sampler
        if not forward.deterministic:
            raise UnsupportedError(
                f"Adjoint needs a sampler that follows the probability-flow ODE, and {forward!r} "
                f"adds noise; use Checkpoint()"
            )
        integrator = (self.sampler or forward).integrator
        if integrator is None:
            raise UnsupportedError(
                f"{forward!r} is not a rule that can solve the adjoint ODE; "
                "name one, as in Adjoint(sampler=adjointdpm.Heun()), or use Checkpoint()"
            )
        only_noisy_ends = self.states == "stored" and integrator is EULER
        end = problem.plan.grid[-1]
        if (
            problem.denoiser.prediction == "sample"
            and float(problem.schedule.sigma(end)) == 0
            and not only_noisy_ends
        ):
            raise ScheduleError(
                f"this adjoint calls the network at t = {end.item():g}, where there is no noise "
                f"left and a predicted sample says nothing about epsilon; "
                'end the grid above that time, or use Adjoint("stored", sampler=adjointdpm.Euler())'
            )
        if problem.plan.requires_grad:
            raise UnsupportedError(
                "Adjoint gives no gradient with respect to the time grid; use Checkpoint(), or "
                "detach the grid"
            )
        return integrator

    def _grid(self, problem: Problem) -> Float[Tensor, " times"]:
        grid = problem.plan.grid
        if self.steps is None:
            return grid
        position = torch.linspace(0, len(grid) - 1, self.steps + 1, dtype=torch.float64)
        if self.steps < len(grid):
            return grid[position.round().long()]
        left = position.floor().clamp(max=len(grid) - 2).long()
        return torch.lerp(grid[left], grid[left + 1], position - left)


class _Backward(BackwardSolve):
    """Samples forwards, then integrates the costate, and what else is asked for, backwards."""

    def __init__(
        self, problem: Problem, integrator: Integrator, grid: Tensor, stored: bool
    ) -> None:
        super().__init__(problem)
        self.schedule = problem.schedule
        self.integrator = integrator
        self.grid = grid
        self.trajectory = Trajectory(problem.schedule, problem.plan.grid) if stored else None
        self.call_at = {
            call.time.item(): call.data for call in reversed(problem.plan.network_calls)
        }

    def sample(self) -> Tensor:
        problem, recorded = self.problem, -1

        def evaluate(call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal recorded
            data, noise = self.evaluate(call, x)
            if self.trajectory is not None and call.step != recorded:
                recorded = call.step
                self.trajectory.record(call.step, x, data, noise)
            return data, noise

        with torch.no_grad():
            result = problem.execute(evaluate)
            if self.trajectory is not None:
                # Detached, since autograd will make `result` itself own this object.
                self.trajectory.finish(result.detach())
        if self.draws.states and (self.trajectory is None or self.integrator is not EULER):
            warnings.warn(
                "the network draws random numbers (dropout in training mode?), so that it is no "
                "ODE with an adjoint to solve, and this "
                "gradient is of other draws than the sample; call eval() on it, or use "
                'Checkpoint() or Adjoint("stored") with Euler',
                AdjointDPMWarning,
                stacklevel=2,
            )
        return result

    def costate(self, result: Tensor, gradient: Tensor, noise_wanted: bool) -> Tensor:
        x, a = result, gradient  # the state, and ∂L/∂x
        times = list(self.grid.flip(0))
        history = (
            _History(self.integrator, times, self.schedule)
            if isinstance(self.integrator, Multistep)
            else None
        )
        steps = {t: step for step, t in enumerate(self.problem.plan.grid[1:].tolist())}
        for k, (clean, noisy) in enumerate(pairwise(times)):
            last = k == len(times) - 2 and not noise_wanted
            if history is not None and history.covers(k):
                x, a = self._multistep(x, a, k, history)
            elif self.trajectory is not None and (history is not None or self.integrator is EULER):
                x, a = self._transposed_euler(x, a, clean, noisy, last)
            else:
                x, a = self._runge_kutta(x, a, clean, noisy)
            if noisy.item() in steps:
                self.problem.report_costate(steps[noisy.item()], a)
        return a

    def _runge_kutta(
        self, x: Tensor, a: Tensor, clean: Tensor, noisy: Tensor
    ) -> tuple[Tensor, Tensor]:
        tableau = self.integrator if isinstance(self.integrator, Tableau) else EULER
        form, schedule = regular_form(self.schedule, noisy), self.schedule
        h = (form.clock(schedule, noisy) - form.clock(schedule, clean)).item()
        here, there = (form.scale(schedule, t).item() for t in (clean, noisy))
        u, a = x / here, a * here
        velocities: list[Tensor] = []
        pullbacks: list[Tensor] = []  # aᵀ ∂v/∂u
        for i, t in enumerate(tableau.stage_times(form, schedule, clean, noisy)):
            row = tableau.a[i]
            stage_a = _add(a, -h, row, pullbacks)
            if self.trajectory is None:
                stage_x = _add(u, h, row, velocities) * form.scale(schedule, t).item()
            else:
                stage_x = self.trajectory.at(t)
            velocity, pullback = self._pull(stage_x, t, form, stage_a, -h * tableau.b[i])
            velocities.append(velocity)
            pullbacks.append(pullback)
        return _add(u, h, tableau.b, velocities) * there, _add(a, -h, tableau.b, pullbacks) / there

    def _transposed_euler(
        self, x: Tensor, a: Tensor, clean: Tensor, noisy: Tensor, last: bool
    ) -> tuple[Tensor, Tensor]:
        """The transpose of the Euler step from `noisy` to `clean`, at its stored start."""
        assert self.trajectory is not None
        form, schedule = regular_form(self.schedule, noisy), self.schedule
        h = (form.clock(schedule, clean) - form.clock(schedule, noisy)).item()
        a = a * form.scale(schedule, clean).item()
        state = self.trajectory.at(noisy)
        _, pullback = self._pull(state, noisy, form, a, h, state_wanted=not last)
        return state, (a + h * pullback) / form.scale(schedule, noisy).item()

    def _multistep(
        self, x: Tensor, a: Tensor, k: int, history: "_History"
    ) -> tuple[Tensor, Tensor]:
        form, clean, noisy = history.form, history.times[k], history.times[k + 1]
        here, there = (form.scale(self.schedule, t).item() for t in (clean, noisy))
        u, a = x / here, a * here
        if self.trajectory is not None:
            u = self.trajectory.at(clean) / here
        weights = history.weights(k)
        velocity, pullback = self._pull(u * here, clean, form, a, -history.total(k))
        history.push(velocity, pullback)
        for weight, (v, p) in zip(weights, history.entries, strict=True):
            u, a = u + weight * v, a - weight * p
        return u * there, a / there

    def _pull(
        self,
        x: Tensor,
        t: Tensor,
        form: Form,
        cotangent: Tensor,
        weight: float,
        state_wanted: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """The velocity v at (x, t) and aᵀ ∂v/∂u; adds `weight` · aᵀ ∂v/∂(inputs) to the totals."""
        schedule, denoiser = self.schedule, self.problem.denoiser
        alpha, sigma, scale = (
            f(t).item() for f in (schedule.alpha, schedule.sigma, lambda t: form.scale(schedule, t))
        )
        inputs = self.wanted if weight else []
        with torch.enable_grad(), self.draws.repeated(self.call_at.get(t.item())):
            x = x.detach().requires_grad_(state_wanted)
            output = self.network(x, t)
            self.check_captured(output, x)
            data, noise = denoiser.split(output, x, alpha, sigma)
            velocity = form.velocity(schedule, t, data, noise)
            asked = [x, *inputs] if state_wanted else inputs
            if asked and velocity.requires_grad:
                found = list(torch.autograd.grad(velocity, asked, cotangent, allow_unused=True))
            else:
                found = [None] * len(asked)
        pullback = found.pop(0) if state_wanted else None
        self.add(found, weight)
        return velocity.detach(), torch.zeros_like(x) if pullback is None else pullback * scale


class _History:
    """Former velocities for Adams–Bashforth, and the weight of each evaluation in all steps.

    The weights are known from the grid beforehand.
    """

    def __init__(self, rule: Multistep, times: list[Tensor], schedule: Any) -> None:
        self.rule, self.times = rule, times
        self.form = NOISE
        self.clocks = torch.stack([schedule.rho(t) for t in times])
        self.entries: list[tuple[Tensor, Tensor]] = []

    def covers(self, k: int) -> bool:
        """Whether interval k has finite clocks at both ends."""
        return bool(torch.isfinite(self.clocks[k + 1]))

    def weights(self, k: int) -> list[float]:
        """Weights of interval k, newest evaluation first."""
        nodes = self.clocks[max(0, k + 1 - self.rule.order) : k + 1].flip(0)
        return self.rule.weights(nodes, self.clocks[k + 1]).tolist()

    def total(self, k: int) -> float:
        """The sum of the weights that the evaluation at time k gets, now and later."""
        later = range(k, min(k + self.rule.order, len(self.times) - 1))
        return sum(self.weights(j)[j - k] for j in later if self.covers(j))

    def push(self, velocity: Tensor, pullback: Tensor) -> None:
        """Remember the newest evaluation."""
        self.entries = [(velocity, pullback), *self.entries][: self.rule.order]


def _add(base: Tensor, h: float, weights: tuple[float, ...], terms: list[Tensor]) -> Tensor:
    for weight, term in zip(weights, terms, strict=True):
        if weight:
            base = base + (h * weight) * term
    return base
