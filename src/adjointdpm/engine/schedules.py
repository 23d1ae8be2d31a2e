"""Noise schedules: x_t = α(t) x_0 + σ(t) ε as continuous functions of time, in float64."""

import inspect
import math
from abc import ABC, abstractmethod
from numbers import Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import InvalidTypeError, ScheduleError


class NoiseSchedule(ABC):
    """α(t), σ(t) and their ratio ρ = σ/α, strictly increasing in t from data to noise.

    Times are float64 tensors of any shape in the schedule's own unit, the one that the network was
    trained with. All functions are differentiable.

    Attributes:
        t_min: where sampling ends by default, the cleanest time.
        t_max: where sampling starts, the noisiest time.
        initial_scale: the sampler starts from `initial_scale * noise`.

    """

    t_min: float
    t_max: float
    initial_scale: float = 1.0

    @abstractmethod
    def rho(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Noise-to-signal ratio ρ = σ/α; infinite where α = 0."""

    @abstractmethod
    def time(self, rho: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The time at which the noise-to-signal ratio is `rho`: the inverse of `rho(t)`."""

    def alpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Signal coefficient.

        Variance preserving (α² + σ² = 1) unless a schedule says otherwise.
        """
        return torch.rsqrt(1 + self.rho(t) ** 2)

    def sigma(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Noise coefficient."""
        return torch.rsqrt(1 + self.rho(t) ** -2)  # not ρ·α, which is ∞·0 at zero terminal SNR

    def derivatives(
        self, t: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, "*n"], Float[Tensor, "*n"]]:
        """Time derivatives (α̇, σ̇): the probability-flow ODE in time is dx/dt = α̇ x̂_0 + σ̇ ε."""
        with torch.enable_grad():
            t = t.detach().requires_grad_()
            # Adding 0·t keeps a constant α (variance exploding) in the graph.
            alpha, sigma = self.alpha(t) + 0 * t, self.sigma(t)
            return torch.autograd.grad(alpha.sum(), t)[0], torch.autograd.grad(sigma.sum(), t)[0]

    def warp(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Where grids uniform in time put `t`; only flow matching with a shift moves it."""
        return t

    @staticmethod
    def from_alphas_cumprod(alphas_cumprod: Float[Tensor, " entries"]) -> "TableSchedule":
        """Variance-preserving table: time is the fractional index, log ρ linear between entries.

        Args:
            alphas_cumprod: ᾱ_t = α(t)², strictly decreasing, in (0, 1], at least two entries.

        Raises:
            ScheduleError: the table is not one-dimensional, too short, not finite, not strictly
                decreasing, or outside (0, 1].
            InvalidTypeError: the table does not hold real numbers.

        """
        try:
            table = torch.as_tensor(alphas_cumprod).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidTypeError(
                f"alphas_cumprod must be a 1-D tensor of numbers in (0, 1]: {error}"
            ) from error
        if table.is_complex() or table.dtype == torch.bool or table.device.type == "meta":
            raise InvalidTypeError(
                f"alphas_cumprod must hold real numbers, not {table.dtype} on {table.device}"
            )
        table = table.to("cpu", torch.float64)
        if table.ndim == 1 and len(table) > 0 and bool(table[-1] == 0):
            raise ScheduleError(
                f"alphas_cumprod[{len(table) - 1}] is 0 (zero terminal SNR): a table must lie in "
                "(0, 1]; drop that entry, or read the scheduler with NoiseSchedule.from_scheduler "
                f"and a network that predicts v"
            )
        return TableSchedule(table)

    @staticmethod
    def from_scheduler(scheduler: Any) -> "NoiseSchedule":
        """The schedule of a diffusers scheduler, from the options that its class uses.

        Args:
            scheduler: a diffusers scheduler with `alphas_cumprod` (all Stable Diffusion ones), a
                flow-matching one (`shift` or `flow_shift` is read), or an EDM one.

        Raises:
            ScheduleError: its configuration names none of these.

        """
        name = type(scheduler).__name__
        if "FlowMatch" in name or option(scheduler, "use_flow_sigmas"):
            return FlowMatchingSchedule(
                float(option(scheduler, "shift") or option(scheduler, "flow_shift") or 1.0)
            )
        if (
            option(scheduler, "sigma_data") is not None
            and option(scheduler, "sigma_max") is not None
        ):
            return EDMSchedule(
                float(option(scheduler, "sigma_min")), float(option(scheduler, "sigma_max"))
            )
        if getattr(scheduler, "alphas_cumprod", None) is not None:
            return TableSchedule(scheduler.alphas_cumprod.detach().to("cpu", torch.float64))
        raise ScheduleError(
            f"{name} has no alphas_cumprod, sigma range or flow-matching shift to read a noise "
            "schedule from; build one with NoiseSchedule.from_alphas_cumprod, .edm or "
            f".flow_matching"
        )

    @staticmethod
    def linear(beta_min: float = 0.1, beta_max: float = 20.0) -> "LinearSchedule":
        """Variance-preserving SDE with β(t) linear in t ∈ (0, 1].

        Song et al. 2021, arXiv 2011.13456, appendix C.

        Raises:
            ScheduleError: not 0 < beta_min <= beta_max.

        """
        return LinearSchedule(beta_min, beta_max)

    @staticmethod
    def cosine(offset: float = 0.008) -> "CosineSchedule":
        """Cosine schedule with t ∈ (0, 0.9946].

        Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17.

        Raises:
            ScheduleError: the offset is not positive.

        """
        return CosineSchedule(offset)

    @staticmethod
    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> "EDMSchedule":
        """Variance exploding, time is σ itself (Karras et al. 2022, arXiv 2206.00364).

        Raises:
            ScheduleError: not 0 <= sigma_min < sigma_max.

        """
        return EDMSchedule(sigma_min, sigma_max)

    @staticmethod
    def flow_matching(shift: float = 1.0) -> "FlowMatchingSchedule":
        """Rectified flow, α = 1 − t and σ = t for t ∈ [0, 1].

        The time is the one that the network sees, so the `shift` s (Esser et al. 2024, arXiv
        2403.03206) changes no coefficient. It moves the times u of grids that are uniform in time
        to s·u / (1 + (s − 1)u).

        Raises:
            ScheduleError: the shift is not positive.

        """
        return FlowMatchingSchedule(shift)


class TableSchedule(NoiseSchedule):
    """Variance-preserving schedule from a table; see `NoiseSchedule.from_alphas_cumprod`."""

    def __init__(self, alphas_cumprod: Float[Tensor, " entries"]) -> None:
        table = alphas_cumprod
        if table.ndim != 1 or len(table) < 2:
            raise ScheduleError(
                f"alphas_cumprod has shape {tuple(table.shape)}; it must be 1-D with at least 2 "
                f"entries"
            )
        if (
            not bool(torch.isfinite(table).all())
            or float(table.min()) < 0
            or float(table.max()) > 1
        ):
            raise ScheduleError(
                f"alphas_cumprod spans [{float(table.min()):g}, {float(table.max()):g}]; every "
                f"entry must lie in (0, 1]"
            )
        rising = torch.nonzero(table.diff() >= 0)
        if len(rising):
            i = int(rising[0])
            raise ScheduleError(
                f"alphas_cumprod must strictly decrease, but entry {i + 1} "
                f"({float(table[i + 1]):g}) is not below entry {i} ({float(table[i]):g})"
            )
        self.alphas_cumprod = table
        self.t_min, self.t_max = 0.0, float(len(table) - 1)
        # arctan ρ is finite at both ends, where log ρ is not (ᾱ = 1, and ᾱ = 0 at zero terminal
        # SNR).
        self._log_rho = 0.5 * (torch.log1p(-table) - torch.log(table))
        self._angle = torch.atan2(torch.sqrt(1 - table), torch.sqrt(table))
        self._complement = torch.atan2(torch.sqrt(table), torch.sqrt(1 - table))
        self._regular = torch.isfinite(self._log_rho)

    def _segment(self, index: Float[Tensor, "*n"]) -> tuple[Tensor, Tensor, Tensor]:
        left = index.detach().floor().clamp(0, len(self._log_rho) - 2).long()
        return left, left + 1, self._regular[left] & self._regular[left + 1]

    def rho(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        left, right, regular = self._segment(t)
        w = t - left
        a, b = (torch.where(regular, self._log_rho[i], 0.0) for i in (left, right))
        # The complement angle is exactly 0 at zero terminal SNR, so that ρ is exactly infinite
        # there.
        complement = self._complement[left] * (1 - w) + self._complement[right] * w
        return torch.where(
            regular, torch.exp(a * (1 - w) + b * w), torch.cos(complement) / torch.sin(complement)
        )

    def time(self, rho: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        angle = torch.atan(rho)
        left = (torch.searchsorted(self._angle, angle.detach().contiguous(), right=True) - 1).to(
            torch.float64
        )
        left, right, regular = self._segment(left)
        # Stand-ins keep the branch that is not taken finite, or its gradient would be NaN.
        a, b = (
            torch.where(regular, self._log_rho[left], 0.0),
            torch.where(regular, self._log_rho[right], 1.0),
        )
        w_log = (torch.log(torch.where(regular, rho, 1.0)) - a) / (b - a)
        w_angle = (angle - self._angle[left]) / (self._angle[right] - self._angle[left])
        return left + torch.where(regular, w_log, w_angle)


class LinearSchedule(NoiseSchedule):
    """Variance-preserving SDE with linear β; see `NoiseSchedule.linear`."""

    t_min, t_max = 1e-3, 1.0

    def __init__(self, beta_min: float, beta_max: float) -> None:
        _check_numbers(beta_min=beta_min, beta_max=beta_max)
        if not 0 < beta_min <= beta_max or not math.isfinite(beta_max):
            raise ScheduleError(
                f"linear(beta_min={beta_min}, beta_max={beta_max}): need 0 < beta_min <= beta_max"
            )
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)

    def rho(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return torch.sqrt(
            torch.expm1(self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2)
        )

    def time(self, rho: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        integral = torch.log1p(rho**2)
        return (
            2
            * integral
            / (
                self.beta_min
                + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)
            )
        )


class CosineSchedule(NoiseSchedule):
    """Variance-preserving cosine schedule; see `NoiseSchedule.cosine`."""

    # ρ is infinite at t = 1; 0.9946 is where DPM-Solver (Lu et al. 2022, arXiv 2206.00927, appendix
    # D.2) starts too.
    t_min, t_max = 1e-3, 0.9946

    def __init__(self, offset: float) -> None:
        _check_numbers(offset=offset)
        if not (offset > 0 and math.isfinite(offset)):
            raise ScheduleError(f"cosine(offset={offset}): the offset must be positive")
        self.offset = float(offset)
        self._log_cos_0 = math.log(math.cos(self.offset / (1 + self.offset) * math.pi / 2))

    def rho(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        log_alpha = (
            torch.log(torch.cos((t + self.offset) / (1 + self.offset) * math.pi / 2))
            - self._log_cos_0
        )
        return torch.sqrt(torch.expm1(-2 * log_alpha))

    def time(self, rho: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        cos = torch.exp(self._log_cos_0 - 0.5 * torch.log1p(rho**2))
        return torch.arccos(cos) * 2 / math.pi * (1 + self.offset) - self.offset


class EDMSchedule(NoiseSchedule):
    """Variance exploding with t = σ; see `NoiseSchedule.edm`."""

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        _check_numbers(sigma_min=sigma_min, sigma_max=sigma_max)
        if not 0 <= sigma_min < sigma_max or not math.isfinite(sigma_max):
            raise ScheduleError(
                f"edm(sigma_min={sigma_min}, sigma_max={sigma_max}): need 0 <= sigma_min < "
                f"sigma_max"
            )
        self.t_min, self.t_max = float(sigma_min), float(sigma_max)
        self.initial_scale = self.t_max

    def rho(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return t

    def time(self, rho: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return rho

    def alpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return torch.ones_like(t)

    def sigma(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return t


class FlowMatchingSchedule(NoiseSchedule):
    """Straight paths from data to noise; see `NoiseSchedule.flow_matching`."""

    t_min, t_max = 0.0, 1.0

    def __init__(self, shift: float) -> None:
        _check_numbers(shift=shift)
        if not (shift > 0 and math.isfinite(shift)):
            raise ScheduleError(f"flow_matching(shift={shift}): the shift must be positive")
        self.shift = float(shift)

    def rho(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return t / (1 - t)

    def time(self, rho: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return 1 - 1 / (1 + rho)

    def alpha(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return 1 - t

    def sigma(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return t

    def warp(self, t: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        return self.shift * t / (1 + (self.shift - 1) * t)


def _check_numbers(**values: object) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise InvalidTypeError(f"{name}={value!r} must be a number")


def option(scheduler: Any, name: str) -> Any:
    """The value of a diffusers scheduler's option, None if its class has no such option.

    `from_config` also carries over options that only other classes read: those count as absent.
    """
    used = any(
        name in inspect.signature(kind.__init__).parameters for kind in type(scheduler).__mro__
    )
    return getattr(scheduler, "config", {}).get(name) if used else None
