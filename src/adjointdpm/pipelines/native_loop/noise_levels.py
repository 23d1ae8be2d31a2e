"""The times and noise levels of a scheduler's run, in the unit of a native schedule."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.engine.denoiser import Prediction
from adjointdpm.engine.schedules import (
    FlowMatchingSchedule,
    NoiseSchedule,
    TableSchedule,
    option,
)
from adjointdpm.errors import UnsupportedError
from adjointdpm.pipelines.native_samplers import PREDICTIONS


class NotReplayable(UnsupportedError):
    """A pipeline's run is more than a denoiser, a schedule and conditioning."""


@dataclass(frozen=True)
class NoiseLevels:
    """Where a scheduler's steps lie on a native schedule.

    Attributes:
        schedule: flow matching, or the scheduler's table with an entry without noise before its
            first. So the times of a table are the scheduler's plus 1.
        prediction: what the scheduler takes the network's output for.
        inverted: whether the scheduler counts noise levels from the data (Mochi).

    """

    scheduler: Any
    schedule: NoiseSchedule
    prediction: Prediction
    inverted: bool = False

    @property
    def sign(self) -> float:
        """What the network's output is multiplied by to point from data to noise."""
        return -1.0 if self.inverted else 1.0

    @property
    def is_table(self) -> bool:
        """Whether the schedule is the scheduler's table."""
        return isinstance(self.schedule, TableSchedule)

    def time(self, position: int) -> float:
        """The time of the scheduler's step number `position`."""
        if self.is_table:
            return float(self.scheduler.timesteps[position]) + 1
        return self._level(float(self.scheduler.sigmas[position]))

    def end(self) -> float:
        """The time at which the scheduler's last step ends."""
        sigmas = getattr(self.scheduler, "sigmas", None)
        if not self.is_table:
            return self._level(float(self.scheduler.sigmas[-1]))
        if isinstance(sigmas, Tensor) and len(sigmas) == len(self.scheduler.timesteps) + 1:
            return 0.0 if float(sigmas[-1]) == 0 else 1.0
        return 0.0 if float(getattr(self.scheduler, "final_alpha_cumprod", 1.0)) == 1 else 1.0

    def _level(self, sigma: float) -> float:
        return 1 - sigma if self.inverted else sigma


def noise_levels(scheduler: Any) -> NoiseLevels:
    """Read a scheduler whose timesteps are set.

    Raises:
        NotReplayable: its noise levels are neither a table nor those of flow matching, or its
            prediction has no name here.

    """
    name = type(scheduler).__name__
    flow = "FlowMatch" in name or option(scheduler, "use_flow_sigmas")
    prediction = option(scheduler, "prediction_type") or ("flow_prediction" if flow else "epsilon")
    if prediction not in PREDICTIONS:
        raise NotReplayable(
            f"{name} has prediction_type={prediction!r}; native samplers know "
            f"{', '.join(PREDICTIONS)}"
        )
    if flow and isinstance(getattr(scheduler, "sigmas", None), Tensor):
        inverted = bool(option(scheduler, "invert_sigmas"))
        return NoiseLevels(scheduler, FlowMatchingSchedule(1.0), PREDICTIONS[prediction], inverted)
    table = getattr(scheduler, "alphas_cumprod", None)
    if flow or table is None or option(scheduler, "sigma_data") is not None:
        raise NotReplayable(
            f"the noise levels of {name} are neither a table nor those of flow matching"
        )
    table = table.detach().to("cpu", torch.float64)
    clean = TableSchedule(torch.cat([torch.ones(1, dtype=torch.float64), table]))
    return NoiseLevels(scheduler, clean, PREDICTIONS[prediction])
