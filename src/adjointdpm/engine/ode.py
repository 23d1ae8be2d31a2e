"""The probability-flow ODE in its noise and data form, and the rules that integrate it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.schedules import NoiseSchedule

Scalar = Tensor  # 0-d, float64


class Form(ABC):
    """A change of variables under which the probability-flow ODE is du/dτ = velocity.

    With u = x / scale(t) and τ = clock(t):

    | form  | u   | τ         | velocity | finite where |
    |-------|-----|-----------|----------|--------------|
    | noise | x/α | ρ = σ/α   | ε        | α > 0        |
    | data  | x/σ | 1/ρ = α/σ | x̂_0      | σ > 0        |

    Both solve the linear part of the ODE exactly (exponential integration: AdjointDPM, arXiv
    2307.10711, section 4.2).
    """

    @abstractmethod
    def clock(self, schedule: NoiseSchedule, t: Scalar) -> Scalar:
        """τ(t)."""

    @abstractmethod
    def time(self, schedule: NoiseSchedule, clock: Scalar) -> Scalar:
        """t(τ)."""

    @abstractmethod
    def scale(self, schedule: NoiseSchedule, t: Scalar) -> Scalar:
        """X / u at time t."""

    @abstractmethod
    def velocity(self, schedule: NoiseSchedule, t: Scalar, data: Any, noise: Any) -> Any:
        """du/dτ from x̂_0 and ε at time t: tensors, or combinations of a plan's registers."""


class NoiseForm(Form):
    """u = x/α with the clock ρ: the velocity is ε."""

    def clock(self, schedule: NoiseSchedule, t: Scalar) -> Scalar:
        return schedule.rho(t)

    def time(self, schedule: NoiseSchedule, clock: Scalar) -> Scalar:
        return schedule.time(clock)

    def scale(self, schedule: NoiseSchedule, t: Scalar) -> Scalar:
        return schedule.alpha(t)

    def velocity(self, schedule: NoiseSchedule, t: Scalar, data: Any, noise: Any) -> Any:
        return noise


class DataForm(Form):
    """u = x/σ with the clock α/σ: the velocity is x̂_0."""

    def clock(self, schedule: NoiseSchedule, t: Scalar) -> Scalar:
        # Not 1/ρ, which has no derivative where ρ is infinite.
        return schedule.alpha(t) / schedule.sigma(t)

    def time(self, schedule: NoiseSchedule, clock: Scalar) -> Scalar:
        return schedule.time(1 / clock)

    def scale(self, schedule: NoiseSchedule, t: Scalar) -> Scalar:
        return schedule.sigma(t)

    def velocity(self, schedule: NoiseSchedule, t: Scalar, data: Any, noise: Any) -> Any:
        return data


NOISE, DATA = NoiseForm(), DataForm()


def regular_form(schedule: NoiseSchedule, noisy_end: Scalar) -> Form:
    """The noise form; where a schedule starts at α = 0, the data form for intervals above ρ = 1.

    There only the data form is finite. Zero terminal SNR and flow matching at t = 1 start so. On
    grids that are uniform in time their ρ doubles from step to step near the start, however many
    steps there are: an explicit rule in ρ would not converge.
    """
    rho = schedule.rho(noisy_end.detach())
    signal_free = torch.isinf(schedule.rho(torch.tensor(schedule.t_max, dtype=torch.float64)))
    return DATA if bool(torch.isinf(rho) | (signal_free & (rho > 1))) else NOISE


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method by its Butcher tableau.

    Stage i lies at c_i, reads the earlier stages with weights a_ij, and enters the step with b_i.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    def stage_times(
        self, form: Form, schedule: NoiseSchedule, start: Scalar, end: Scalar
    ) -> list[Scalar]:
        """The stages' times between two grid times; a stage at an end has exactly its time."""
        first, last = form.clock(schedule, start), form.clock(schedule, end)
        return [
            start if c == 0 else end if c == 1 else form.time(schedule, first + c * (last - first))
            for c in self.c
        ]


EULER = Tableau((0.0,), ((),), (1.0,))
HEUN = Tableau((0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2))
MIDPOINT = Tableau((0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0))
RUNGE_KUTTA_4 = Tableau(
    (0.0, 1 / 2, 1 / 2, 1.0),
    ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
)


@dataclass(frozen=True)
class Multistep:
    """Adams–Bashforth with variable steps, started with lower orders."""

    order: int

    def weights(self, clocks: Float[Tensor, " history"], end: Scalar) -> Float[Tensor, " history"]:
        """Weights w such that u(end) ≈ u(clocks[0]) + Σ w_j v_j, `clocks` newest first.

        They integrate the polynomial through the velocities exactly (Hairer, Nørsett, Wanner,
        Solving ODEs I, section III.5).
        """
        h = end - clocks[0]
        nodes = (clocks - clocks[0]) / h
        powers = torch.arange(len(clocks), dtype=torch.float64)
        return h * torch.linalg.solve(nodes[None, :] ** powers[:, None], 1 / (powers + 1))


Integrator = Tableau | Multistep
