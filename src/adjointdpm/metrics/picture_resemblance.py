"""Whether a picture still resembles what the untouched model draws for its prompt.

It takes the judge's place where none knows the prompts: with a model of one's own, with prompts of
things that the judge never saw. A subject that is still there has its lines where the untouched
picture has them, whatever the colours. One that is gone leaves a picture which is no nearer to its
own untouched picture than to those of other prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adjointdpm.metrics.structure import structure_distance

Stills = Float[Tensor, "batch 3 height width"]

_SIDE = 64  # pixels of the longer side: the lines that make a subject are seen there
_LOST = 0.8  # of the mean distance to other prompts' untouched pictures, and the subject is gone
_UNCLEAR = 0.7  # the same, where one is no longer sure


@dataclass(frozen=True)
class PictureResemblance:
    """Compares pictures with untouched ones by their lines, see `structure_distance`; a recogniser.

    Args:
        untouched: pictures of the untouched model by prompt, in [0, 1], of two prompts or more.
        most: the distance to the nearest untouched picture of the same prompt up to which a picture
            resembles it, as a share of its mean distance to those of other prompts.

    """

    untouched: Mapping[str, Stills]
    most: float = _LOST
    lost_in_words = "pictures that no longer resemble the untouched ones"

    @classmethod
    def to(cls, images: Stills, prompts: Sequence[str]) -> "PictureResemblance | None":
        """Of untouched pictures and their prompts; None if these are not two different ones."""
        small = _small(images)
        found = {
            prompt: small[[i for i, p in enumerate(prompts) if p == prompt]]
            for prompt in dict.fromkeys(prompts)
        }
        return cls(found) if len(found) > 1 else None

    @torch.no_grad()
    def __call__(self, images: Stills, prompts: Sequence[str]) -> list[bool]:
        """Whether each picture resembles an untouched one of its prompt."""
        return [
            self._own(image, prompt) <= self.most * self._others(image, prompt)
            for image, prompt in zip(_small(images), prompts, strict=True)
        ]

    def clearly(self) -> "PictureResemblance":
        """The same, and stricter."""
        return replace(self, most=_UNCLEAR)

    def _own(self, image: Tensor, prompt: str) -> float:
        """Distance to the nearest untouched picture of the prompt."""
        return _distances(image, self.untouched[prompt]).min().item()

    def _others(self, image: Tensor, prompt: str) -> float:
        """Mean distance to the untouched pictures of other prompts."""
        others = [seen for known, seen in self.untouched.items() if known != prompt]
        return _distances(image, torch.cat(others)).mean().item()


def _small(images: Tensor) -> Tensor:
    """Pictures on the CPU, in [0, 1], with a longer side of so many pixels at most."""
    images = images.detach().float().cpu().clamp(0, 1)
    longer = max(images.shape[-2:])
    if longer <= _SIDE:
        return images
    height, width = (max(8, round(side * _SIDE / longer)) for side in images.shape[-2:])
    return F.interpolate(images, (height, width), mode="area")


def _distances(image: Tensor, references: Tensor) -> Tensor:
    return structure_distance(image.expand_as(references), references)
