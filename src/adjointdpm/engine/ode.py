"""The probability-flow ODE in its noise, data and time form, and the rules that integrate it."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.schedules import NoiseSchedule

Scalar = Tensor  # 0-d, float64


@dataclass(frozen=True)
class Form:
    """A change of variables u = x / scale(t), τ = clock(t) under which the probability-flow ODE is
    du/dτ = velocity.

    | form  | u   | τ         | velocity          | regular where                             |
    |-------|-----|-----------|-------------------|-------------------------------------------|
    | noise | x/α | ρ = σ/α   | ε                 | α > 0                                     |
    | data  | x/σ | 1/ρ = α/σ | x̂_0               | σ > 0                                     |
    | time  | x   | t         | α̇ x̂_0 + σ̇ ε       | everywhere for flow matching; stiff for VP |

    The first two solve the linear part of the ODE exactly (exponential integration: AdjointDPM,
    arXiv 2307.10711, section 4.2).
    """

    name: Literal["noise", "data", "time"]

    def clock(self, schedule: NoiseSchedule, t: Scalar) -> Scalar:
        """τ(t)."""
        match self.name:
            case "noise":
                return schedule.rho(t)
            case "data":
                return 1 / schedule.rho(t)
            case "time":
                return t

    def time(self, schedule: NoiseSchedule, clock: Scalar) -> Scalar:
        """t(τ)."""
        match self.name:
            case "noise":
                return schedule.time(clock)
            case "data":
                return schedule.time(1 / clock)
            case "time":
                return clock

    def scale(self, schedule: NoiseSchedule, t: Scalar) -> Scalar:
        """X = scale · u."""
        match self.name:
            case "noise":
                return schedule.alpha(t)
            case "data":
                return schedule.sigma(t)
            case "time":
                return torch.ones_like(t)

    def velocity(self, schedule: NoiseSchedule, t: Scalar, data: Any, noise: Any) -> Any:
        """du/dτ from x̂_0 and ε at time t: tensors, or registers of a plan."""
        match self.name:
            case "noise":
                return noise
            case "data":
                return data
            case "time":
                alpha_rate, sigma_rate = schedule.derivatives(t)
                return float(alpha_rate) * data + float(sigma_rate) * noise


NOISE, DATA, TIME = Form("noise"), Form("data"), Form("time")


def regular_form(schedule: NoiseSchedule, noisy_end: Scalar) -> Form:
    """The noise form, except in an interval that starts at α = 0, where only the data form is
    finite.

    Zero terminal SNR and flow matching at t = 1 are such starts.
    """
    return DATA if bool(torch.isinf(schedule.rho(noisy_end.detach()))) else NOISE


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method: stage i sits at c_i, reads the earlier stages with a_ij, and
    enters the step with b_i (Butcher).
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    def stage_times(
        self, form: Form, schedule: NoiseSchedule, start: Scalar, end: Scalar
    ) -> list[Scalar]:
        """The stages' times between two grid times, the ends exactly themselves."""
        first, last = form.clock(schedule, start), form.clock(schedule, end)
        return [
            start if c == 0 else end if c == 1 else form.time(schedule, first + c * (last - first))
            for c in self.c
        ]


EULER = Tableau((0,), ((),), (1,))
HEUN = Tableau((0, 1), ((), (1,)), (1 / 2, 1 / 2))
MIDPOINT = Tableau((0, 1 / 2), ((), (1 / 2,)), (0, 1))
RUNGE_KUTTA_4 = Tableau(
    (0, 1 / 2, 1 / 2, 1), ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)
)


@dataclass(frozen=True)
class Multistep:
    """Adams–Bashforth with variable steps, started with lower orders."""

    order: int

    def weights(self, clocks: Float[Tensor, " history"], end: Scalar) -> Float[Tensor, " history"]:
        """Weights w of the velocities at `clocks`, newest first, such that u(end) ≈ u(clocks[0]) +
        Σ w_j v_j.

        They integrate the polynomial through the velocities exactly (Hairer, Nørsett, Wanner,
        Solving ODEs I, section III.5).
        """
        h = end - clocks[0]
        nodes = (clocks - clocks[0]) / h
        powers = torch.arange(len(clocks), dtype=torch.float64)
        return h * torch.linalg.solve(nodes[None, :] ** powers[:, None], 1 / (powers + 1))


Integrator = Tableau | Multistep
