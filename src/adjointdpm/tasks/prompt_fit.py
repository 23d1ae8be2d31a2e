"""Whether the model itself still takes pictures for what their prompt says.

It guards a single picture that is wanted, where another drawing of the prompt is welcome. See
`DiffusionClassifier`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import ScheduleError, UnsupportedError
from adjointdpm.metrics import Metric
from adjointdpm.metrics.base import Samples, Scores
from adjointdpm.metrics.lost_subject import stills
from adjointdpm.metrics.picture_resemblance import Stills
from adjointdpm.pipelines.diffusion_classifier import DiffusionClassifier
from adjointdpm.support.process_state import own_random_numbers

_KEPT = 0.8  # of the untouched picture's score at each level of noise: with as much all is there
_LOST = 0.65  # of the untouched picture's score, and the subject may be gone
_DRAWS = 4  # of the noise at most: the score's own error is known from as many
_ERRORS = 3  # as many must lie between an untouched picture and one that is lost


LevelScores = Float[Tensor, "batch levels"]


@dataclass(frozen=True)
class PromptFit:
    """Compares the model's score of pictures with that of untouched ones; a recogniser.

    Args:
        scores: the model's, of the prompt, one for each draw of its noise; their mean counts.
        untouched: the mean score of untouched pictures at each level of noise.
        least: the mean score down to which a picture shows what the prompt says, as a share of the
            mean of these.

    """

    scores: Sequence[DiffusionClassifier]
    untouched: Float[Tensor, " levels"]
    least: float = _LOST
    _last: list[tuple[Stills, LevelScores]] = field(default_factory=list, repr=False, compare=False)
    lost_in_words = "pictures that the model no longer takes for what the prompt says"

    @classmethod
    def to(cls, model: Any, untouched: Stills, prompt: str) -> "PromptFit | None":
        """Of untouched pictures of a prompt, with as few draws of the noise as are enough.

        None: the model cannot be asked, or its answer would be chance: the score is too small
        beside what it varies by from one draw to another.
        """
        try:
            draws = [DiffusionClassifier(model, prompt, seed=seed) for seed in range(_DRAWS)]
            levels = torch.stack([ask(untouched).mean(0) for ask in draws])
        except (UnsupportedError, ScheduleError):
            return None
        means = levels.mean(1)
        errors = (1 - _LOST) * means.mean().item() / max(means.std().item(), 1e-9)
        if errors <= _ERRORS / math.sqrt(_DRAWS):
            return None
        enough = max(1, math.ceil((_ERRORS / errors) ** 2))
        return cls(draws[:enough], levels[:enough].mean(0))

    def __call__(self, images: Stills, prompts: Sequence[str]) -> list[bool]:
        """Whether each picture still shows what the prompt says."""
        return (self.share(images) >= self.least).tolist()

    def share(self, images: Stills) -> Scores:
        """The mean score of each picture, as a share of that of untouched ones."""
        return self.levels(images).mean(1) / self.untouched.mean()

    def levels(self, images: Stills) -> LevelScores:
        """The scores of each picture, without a gradient.

        A picture is looked at by more than one, and so the answer on the last ones is remembered.
        """
        for last, found in self._last:
            alike = (last.shape, last.dtype, last.device) == (
                images.shape,
                images.dtype,
                images.device,
            )
            if alike and torch.equal(last, images):
                return found
        with torch.no_grad():
            found = torch.stack([ask(images) for ask in self.scores]).mean(0)
        self._last[:] = [(images.detach().clone(), found)]
        return found

    def drawn_levels(self, images: Stills) -> LevelScores:
        """The same with noise that is drawn at random, as many draws, and with its gradient."""
        with own_random_numbers():
            seeds = torch.randint(2**31, (len(self.scores),)).tolist()
        asks = [ask.with_seed(seed) for ask, seed in zip(self.scores, seeds, strict=True)]
        return torch.stack([ask(images) for ask in asks]).mean(0)


@dataclass(frozen=True)
class Misfit(Metric):
    """What pictures' scores lack to 0.8 of the untouched ones' at each level of noise, on average.

    It is 0 for most pictures, and 1 for one whose scores are all so small that it counts as lost.
    A picture that lacks its head, or is a blot of the right colours, may have a good score at all
    levels but one: no other level makes up for it.

    So another metric moves pictures freely as long as they fit their prompt well, and then along
    the border of those that do. With a gradient the model is asked with other noise at each step:
    pictures that were moved to please it with one noise alone lose their heads.

    Args:
        fit: what compares pictures with untouched ones.

    """

    fit: PromptFit
    takes_videos = True

    @property
    def name(self) -> str:
        """What it is."""
        return "misfit to the prompt"

    def __call__(self, samples: Samples, /, prompts: Sequence[str] | None = None) -> Scores:
        """Score each picture; of a video, the frame in the middle."""
        images = stills(samples)
        moved = images.requires_grad and torch.is_grad_enabled()
        levels = self.fit.drawn_levels(images) if moved else self.fit.levels(images)
        lacking = (_KEPT * self.fit.untouched - levels).relu().mean(1) / self.fit.untouched.mean()
        return (lacking / (_KEPT - _LOST)).to(samples.device)
