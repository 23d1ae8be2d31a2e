"""PickScore: which of two pictures of a prompt people picked."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from adjointdpm.metrics.base import Images, Scores
from adjointdpm.metrics.networks import Clip, placed
from adjointdpm.metrics.reward import Reward


@dataclass(frozen=True)
class PickScore(Reward):
    """How much people would prefer each picture for its prompt, about 17 to 24; higher is better.

    Kirstain et al. (2023, arXiv 2305.01569): CLIP ViT-H/14, trained on the choices of Pick-a-Pic's
    users. The score is exp(logit_scale) · cosine of picture and prompt.

    Args:
        model: the folder or hub id; the official one is yuvalkirstain/PickScore_v1.

    Raises:
        ModelError: no CLIP model there, see `Clip`.

    """

    model: str

    def __post_init__(self) -> None:
        _ = self._clip.preprocessing

    @property
    def name(self) -> str:
        """Without its model."""
        return "pickscore"

    def reward(self, images: Images, prompts: Sequence[str]) -> Scores:
        """CLIP's logit of each picture and its prompt."""
        clip = placed(self._clip, images)
        assert isinstance(clip, Clip)
        return clip.logit_scale * clip.cosines(images, prompts, self.name)

    @cached_property
    def _clip(self) -> Clip:
        return Clip(self.model)
