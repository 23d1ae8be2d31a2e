"""Several metrics as one."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch

from adjointdpm.errors import InvalidInputError
from adjointdpm.metrics.base import Metric, Samples, Scores, check_samples, check_scores


@dataclass(frozen=True)
class WeightedSum(Metric):
    """Σ weight · metric.

    Raises:
        InvalidInputError: no metrics, another number of weights, or a weight that is not finite.

    """

    metrics: Sequence[Metric]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        if (
            not self.metrics
            or len(self.metrics) != len(self.weights)
            or not all(isfinite(weight) for weight in self.weights)
        ):
            raise InvalidInputError(
                f"a weighted sum of {len(self.metrics)} metrics needs as many finite weights, not "
                f"{list(self.weights)}"
            )

    @property
    def name(self) -> str:
        """The sum, spelt out."""
        return " + ".join(
            f"{weight:g}·{metric.name}"
            for weight, metric in zip(self.weights, self.metrics, strict=True)
        )

    @property
    def smallest(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the most demanding metric asks for."""
        return max(metric.smallest for metric in self.metrics)

    @property
    def takes_videos(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether all of them do."""
        return all(metric.takes_videos for metric in self.metrics)

    @property
    def asks_judge(self) -> bool:
        """Whether any of them does."""
        return any(metric.asks_judge for metric in self.metrics)

    def __call__(self, samples: Samples, /, prompts: Sequence[str] | None = None) -> Scores:
        """Score each sample."""
        parts = []
        for weight, metric in zip(self.weights, self.metrics, strict=True):
            check_samples(metric, samples)  # here, where it is known whose they are
            scores = metric(samples, prompts=prompts)
            check_scores(metric, scores, len(samples))
            parts.append(weight * scores)
        return torch.stack(parts).sum(0)
