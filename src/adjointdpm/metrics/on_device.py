"""A metric on another device, or in another precision, than the pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from adjointdpm.errors import UnknownNameError
from adjointdpm.metrics.base import Metric, Samples, Scores, check_samples, score
from adjointdpm.metrics.weighted_sum import WeightedSum
from adjointdpm.support.devices import usable_device

# float16 is not among them: its gradients underflow, and nothing scales them on the way back.
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class OnDevice(Metric):
    """The same metric, computed elsewhere; scores and gradients come back to the pictures.

    Args:
        metric: what scores; its networks follow the samples.
        device: where it does; None for where the samples are.
        dtype: in which precision; None for the samples' own. The scores are float32 at least.

    """

    metric: Metric
    device: torch.device | None = None
    dtype: torch.dtype | None = None

    @property
    def name(self) -> str:
        """The metric's."""
        return self.metric.name

    @property
    def smallest(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The metric's."""
        return self.metric.smallest

    @property
    def takes_videos(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The metric's."""
        return self.metric.takes_videos

    @property
    def sign(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The metric's."""
        return self.metric.sign

    @property
    def asks_judge(self) -> bool:
        """Whether the metric does."""
        return self.metric.asks_judge

    def __call__(self, samples: Samples, /, prompts: Sequence[str] | None = None) -> Scores:
        """Score each sample."""
        check_samples(self.metric, samples)
        there = samples.to(device=self.device, dtype=self.dtype)
        scores = score(self.metric, there, prompts)
        return scores.to(samples.device, torch.promote_types(samples.dtype, torch.float32))


def placed_elsewhere(metric: Metric, device: str | None, dtype: str | None) -> Metric:
    """The metric, or each of a weighted sum, on a device and in a precision that are named.

    Args:
        metric: what to compute elsewhere; itself if neither is named.
        device: as torch names it.
        dtype: float32 or bfloat16.

    Raises:
        UnknownNameError: torch cannot use the device here, or another dtype.

    """
    there = check_place(device, dtype)
    if there == (None, None):
        return metric
    if isinstance(metric, WeightedSum):
        return replace(metric, metrics=[OnDevice(part, *there) for part in metric.metrics])
    return OnDevice(metric, *there)


def check_place(
    device: str | None, dtype: str | None
) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and the dtype that are named, None for what is not.

    Raises:
        UnknownNameError: see `placed_elsewhere`.

    """
    if dtype is not None and dtype not in _DTYPES:
        raise UnknownNameError(f"reward_dtype={dtype!r} must be one of {', '.join(_DTYPES)}")
    found = None if device is None else usable_device("reward_device=", device)
    return found, None if dtype is None else _DTYPES[dtype]
