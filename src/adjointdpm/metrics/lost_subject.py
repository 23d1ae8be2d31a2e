"""A recogniser's verdict as a metric, to be measured and never optimised."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adjointdpm.metrics.base import Metric, Samples, Scores
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
    takes_videos = True

    @property
    def name(self) -> str:
        """What its mean is."""
        unclear = "" if self.clearly is None else ", or half where it is unsure"
        return f"share of {lost_in_words(self.recognise)}{unclear}"

    @torch.no_grad()
    def __call__(self, samples: Samples, /, prompts: Sequence[str] | None = None) -> Scores:
        """Ask for each picture."""
        images = stills(samples)
        asked = [self.recognise] if self.clearly is None else [self.recognise, self.clearly]
        found = [recognise(images, list(prompts or ())) for recognise in asked]
        lost = 1 - torch.tensor(found, dtype=torch.float64).mean(0)
        return lost.float().to(samples.device)


def lost_in_words(recognise: Recogniser) -> str:
    """What is lost where a recogniser says no."""
    return getattr(recognise, "lost_in_words", SubjectJudge.lost_in_words)


def stills(samples: Tensor) -> Tensor:
    """Pictures as they are; of videos, the frame in the middle."""
    return samples[:, samples.shape[1] // 2] if samples.ndim == 5 else samples
