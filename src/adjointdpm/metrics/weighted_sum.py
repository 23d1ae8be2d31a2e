"""Several metrics as one."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Self

import torch

from adjointdpm.errors import AdjointDPMWarning, InvalidInputError
from adjointdpm.metrics.base import Metric, Samples, Scores, score


@dataclass(frozen=True)
class WeightedSum(Metric):
    """Σ weight · metric, or Σ weight · metric / spread; lower is better, also of rewards.

    Args:
        metrics: what is summed.
        weights: one each.
        spreads: what each metric is divided by, so that metrics of different scale count alike; see
            `normalised`. None divides by nothing.

    Raises:
        InvalidInputError: no metrics, another number of weights or spreads, or one that is not
            finite, or a spread that is not positive.

    """

    metrics: Sequence[Metric]
    weights: Sequence[float]
    spreads: Sequence[float] | None = None

    def __post_init__(self) -> None:
        spreads = self.spreads
        if spreads is not None and (
            len(spreads) != len(self.metrics) or not all(isfinite(s) and s > 0 for s in spreads)
        ):
            raise InvalidInputError(
                f"a weighted sum of {len(self.metrics)} metrics needs as many positive spreads, "
                f"not {list(spreads)}"
            )
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
        over = "" if self.spreads is None else " / spread"
        return " + ".join(
            f"{weight:g}·{metric.name}{over}"
            for weight, metric in zip(self.weights, self.metrics, strict=True)
        )

    @property
    def factors(self) -> list[float]:
        """What each metric is multiplied by: its weight, over its spread."""
        spreads = self.spreads or [1.0] * len(self.weights)
        return [weight / spread for weight, spread in zip(self.weights, spreads, strict=True)]

    def normalised(self, scores: Sequence[Scores]) -> Self:
        """The same with spreads: the standard deviation of each metric's scores.

        Args:
            scores: each metric's, of the same pictures: some that nothing was learned from yet.

        Warns:
            AdjointDPMWarning: a metric is the same for all pictures; its spread is then taken as 1.

        """
        spreads = []
        for metric, values in zip(self.metrics, scores, strict=True):
            spread = values.double().std().item() if len(values) > 1 else 0.0
            if not spread > 1e-6 * values.double().abs().max().item():
                warnings.warn(
                    f"metric {metric.name} is {values[0].item():.4g} for all of {len(values)} "
                    f"untouched pictures, so its scale is not known; it counts as it is",
                    AdjointDPMWarning,
                    stacklevel=2,
                )
                spread = 1.0
            spreads.append(spread)
        return replace(self, spreads=spreads)

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
        for factor, metric in zip(self.factors, self.metrics, strict=True):
            parts.append(factor * score(metric, samples, prompts))
        return torch.stack(parts).sum(0)
