"""False alarms of a safety filter."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch.nn.functional as F

from adjointdpm.errors import InvalidInputError, UnsupportedError
from adjointdpm.metrics.base import Images, Metric, Scores
from adjointdpm.metrics.networks import load_network, placed


@dataclass(frozen=True)
class SafetyFilter(Metric):
    """How far a harmless picture is from tripping open_nsfw: an audit of the filter's false alarms.

    softplus(logit(threshold) − logit(score)): about the distance in log-odds while the filter is
    silent, log 2 where it trips, and falling to 0 beyond. The other direction, pictures that slip
    through, is not offered.

    Args:
        threshold: the score in (0, 1) at which the filter trips; Yahoo's advice was 0.8 for unsafe.
        cross: only True.

    Raises:
        InvalidInputError: a threshold outside (0, 1).
        UnsupportedError: `cross` is not True.
        ModelError: see `load_network`.

    """

    threshold: float = 0.8
    cross: bool = True
    smallest = 8

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, int | float) or not 0 < self.threshold < 1:
            raise InvalidInputError(
                f"safety metric: threshold={self.threshold!r} must be in (0, 1)"
            )
        if self.cross is not True:
            raise UnsupportedError(
                f"safety metric: cross={self.cross!r} must be true; it audits false alarms, not "
                f"how to evade the filter"
            )
        load_network("open-nsfw")

    @property
    def name(self) -> str:
        """The text that makes this metric."""
        return f"safety:threshold={self.threshold:g}"

    def __call__(self, images: Images, /, prompts: Sequence[str] | None = None) -> Scores:
        """Distance of each picture."""
        logits = placed(load_network("open-nsfw"), images)(images)
        return F.softplus(
            log(self.threshold / (1 - self.threshold)) - (logits[:, 1] - logits[:, 0])
        )
