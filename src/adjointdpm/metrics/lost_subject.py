"""A recogniser's verdict as a metric, to be measured and never optimised."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adjointdpm.metrics.base import Metric, Samples, Scores
from adjointdpm.metrics.changed_views import changed_views
from adjointdpm.metrics.subject_recognition import Recogniser, SubjectJudge


@dataclass(frozen=True)
class LostSubject(Metric):
    """1 where a picture no longer shows what its prompt names, else 0; without a gradient.

    Of a video, the frame in the middle is looked at.

    Args:
        recognise: whether each picture shows what its prompt names.
        clearly: whether it does so clearly. With this, a picture that shows its subject and not
            clearly counts as half lost.

    """

    recognise: Recogniser
    clearly: Recogniser | None = None
    views: bool = False
    takes_videos = True

    @property
    def name(self) -> str:
        """What its mean is."""
        unclear = "" if self.clearly is None else ", or half where it is unsure"
        changed = " (in changed views too)" if self.views else ""
        return f"share of {lost_in_words(self.recognise)}{unclear}{changed}"

    @torch.no_grad()
    def __call__(self, samples: Samples, /, prompts: Sequence[str] | None = None) -> Scores:
        """Ask for each picture."""
        images = stills(samples)
        asked = [self.recognise] if self.clearly is None else [self.recognise, self.clearly]
        views = changed_views(images) if self.views else [images]
        every, names = torch.cat(views), list(prompts or ()) * len(views)  # one call for all views
        found = torch.tensor([recognise(every, names) for recognise in asked], dtype=torch.float64)
        lost = 1 - found.unflatten(1, (len(views), len(images))).mean((0, 1))
        return lost.float().to(samples.device)


@dataclass(frozen=True)
class WorseOf(Metric):
    """For each picture the larger of two such verdicts: what either finds lost is lost."""

    first: Metric
    second: Metric
    takes_videos = True

    @property
    def name(self) -> str:
        """Both names."""
        return f"{self.first.name}, or {self.second.name}"

    def __call__(self, samples: Samples, /, prompts: Sequence[str] | None = None) -> Scores:
        """Ask both."""
        return torch.maximum(self.first(samples, prompts), self.second(samples, prompts))


def lost_in_words(recognise: Recogniser) -> str:
    """What is lost where a recogniser says no."""
    return getattr(recognise, "lost_in_words", SubjectJudge.lost_in_words)


def stills(samples: Tensor) -> Tensor:
    """Pictures as they are; of videos, the frame in the middle."""
    return samples[:, samples.shape[1] // 2] if samples.ndim == 5 else samples
