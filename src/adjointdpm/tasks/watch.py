"""Watches a run, from outside its loop, for reasons why it gains nothing."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import NoGainWarning
from adjointdpm.metrics import Metric, score
from adjointdpm.metrics.base import Samples, Scores
from adjointdpm.optimization.loop import Record
from adjointdpm.optimization.settings import Settings
from adjointdpm.tasks.diagnosis import ADVICE, EARLY, Diagnosis, Seen, diagnose, diagnose_end
from adjointdpm.variables import Variable


class WatchedMetric(Metric):
    """A metric, and what was seen of the pictures that it scored.

    Args:
        metric: what scores.

    Attributes:
        scores: of all pictures that were looked at without a gradient.
        pictures, flat: how many got a gradient, and how many of these one of exactly 0.

    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.smallest, self.takes_videos = metric.smallest, metric.takes_videos
        self.sign, self.hackable = metric.sign, metric.hackable
        self.pictures = self.flat = 0
        self._looked: list[Tensor] = []
        self._scores: list[float] = []
        self._first: tuple[list[float], Tensor] | None = None
        self.change: float | None = None

    @property
    def name(self) -> str:
        """The metric's."""
        return self.metric.name

    @property
    def asks_judge(self) -> bool:
        """The metric's."""
        return self.metric.asks_judge

    def __call__(self, samples: Samples, /, prompts: Sequence[str] | None = None) -> Scores:
        """Score each sample."""
        if samples.requires_grad and torch.is_grad_enabled():
            samples = samples.view_as(samples)  # a hook on the picture would see other terms too
            samples.register_hook(self._count)
            return score(self.metric, samples, prompts)
        scores = score(self.metric, samples, prompts)
        if isinstance(scores, Tensor) and scores.shape == (len(samples),):
            self._scores += scores.tolist()
            self._looked.append(_small(samples))
        return scores

    def end_look(self) -> None:
        """Compare the pictures looked at since the last call with the first ones."""
        if not self._looked:
            return
        looked = torch.cat(self._looked)
        if self._first is None:
            self._first = self._scores, looked
        elif self._first[1].shape == looked.shape:
            # The largest so far: a run that went back to its start has changed pictures.
            self.change = max(self.change or 0, (looked - self._first[1]).abs().mean().item())
        self._looked, self._scores = [], []

    @property
    def seen(self) -> Seen:
        """All that was seen so far."""
        scores = torch.tensor(self._first[0] if self._first else [0.0], dtype=torch.float64)
        return Seen(self.pictures, self.flat, scores.std(correction=0).item(), self.change)

    def _count(self, gradient: Tensor) -> None:
        largest = gradient.detach().flatten(1).abs().amax(1)
        self.pictures += len(largest)
        self.flat += int((largest == 0).sum())


def _small(samples: Tensor) -> Tensor:
    """Pictures of at most 32×32 pixels on the CPU: enough to see whether they changed."""
    pictures = samples.detach().float().flatten(0, -4)
    height, width = (min(32, size) for size in pictures.shape[-2:])
    return torch.nn.functional.adaptive_avg_pool2d(pictures, (height, width)).cpu()


@dataclass
class Watch:
    """Watches a run, and warns once if it gains nothing.

    Args:
        metric: what the run minimises; the loop gets `watched` in its place.
        variable: what is learned.
        settings: the loop's.
        advice: what to do if pictures do not depend on what is learned.
        acts: whether pictures can change, where that was tried before the run.
        spread: of the metric over different pictures.

    """

    metric: Metric
    variable: Variable
    settings: Settings
    advice: str = ADVICE
    acts: bool | None = None
    spread: float = 0.0
    watched: WatchedMetric = field(init=False)
    _warned: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.watched = WatchedMetric(self.metric)

    def note(self, history: Sequence[Record]) -> None:
        """Add "moved" to the newest record, and warn if there is reason to.

        Warns:
            NoGainWarning: the run gains nothing, and why.

        """
        record = history[-1]
        self.watched.end_look()
        if record["iteration"] == 0:
            return
        record["moved"] = self._moved()
        # After the last iteration the verdict on held-out pictures says more.
        if self._warned or not EARLY <= record["iteration"] < self.settings.iterations:
            return
        if (found := self.diagnosis(history)) is not None:
            self._warned = True
            warnings.warn(
                f"after {record['iteration']} iterations nothing is gained. {found}",
                NoGainWarning,
                stacklevel=2,
            )

    def diagnosis(self, history: Sequence[Record]) -> Diagnosis | None:
        """Why nothing has been gained so far."""
        return diagnose(history, self._seen, self.settings, self.advice)

    def verdict(
        self,
        history: Sequence[Record],
        held_out: Mapping[str, Any],
        kept: int,
    ) -> dict[str, str] | None:
        """What `result.json` says of why a finished run gained nothing; None if it gained."""
        found = diagnose_end(history, self._seen, self.settings, held_out, kept, self.advice)
        return None if found is None else asdict(found)

    @property
    def _seen(self) -> Seen:
        seen = replace(self.watched.seen, acts=self.acts)
        return replace(seen, spread=self.spread or seen.spread)

    @torch.no_grad()
    def _moved(self) -> float:
        first, units = self.variable.first_values(), self.variable.units()
        tensors = self.variable.tensors()
        squares = [
            ((tensor - first[name].to(tensor)) / units[name].to(tensor)).square().sum().item()
            for name, tensor in tensors.items()
        ]
        return math.sqrt(sum(squares) / sum(tensor.numel() for tensor in tensors.values()))
