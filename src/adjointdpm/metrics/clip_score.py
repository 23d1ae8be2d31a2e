"""CLIP score: how well a picture shows its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from adjointdpm.metrics.base import Images, Scores
from adjointdpm.metrics.networks import Clip, placed
from adjointdpm.metrics.reward import Reward
from adjointdpm.support.named_options import quoted


@dataclass(frozen=True)
class ClipScore(Reward):
    """How well each picture shows its own prompt, as CLIP sees it; higher is better.

    The score is exp(logit_scale) · cosine of picture and prompt. `similarity` compares all pictures
    with one text instead.

    Args:
        model: the folder or hub id of any CLIP model; OpenAI's large one is
            openai/clip-vit-large-patch14.

    Raises:
        ModelError: no CLIP model there, see `Clip`.

    """

    model: str

    def __post_init__(self) -> None:
        _ = self._clip.preprocessing

    @property
    def name(self) -> str:
        """The text that makes this metric."""
        return f"clip:model={quoted(self.model)}"

    def reward(self, images: Images, prompts: Sequence[str]) -> Scores:
        """CLIP's logit of each picture and its prompt."""
        clip = placed(self._clip, images)
        assert isinstance(clip, Clip)
        return clip.logit_scale * clip.cosines(images, prompts, "clip")

    @cached_property
    def _clip(self) -> Clip:
        return Clip(self.model)
