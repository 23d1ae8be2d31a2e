"""The aesthetic score: how people would rate a picture, whatever it shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adjointdpm.errors import ModelError
from adjointdpm.metrics.base import Images, Scores
from adjointdpm.metrics.networks import Clip, placed
from adjointdpm.metrics.networks.model_files import read_weights
from adjointdpm.metrics.networks.preference_head import PreferenceHead
from adjointdpm.metrics.reward import Reward


@dataclass(frozen=True)
class Aesthetic(Reward):
    """How people would rate each picture, about 1 to 10, without its prompt; higher is better.

    LAION's improved aesthetic predictor (Schuhmann 2022): the unit vector of CLIP ViT-L/14, and a
    small head of linear layers.

    Args:
        model: the folder or hub id of the CLIP model, openai/clip-vit-large-patch14.
        head: the file of the head's weights, as safetensors; the official one is
            sac+logos+ava1-l14-linearMSE.pth of christophschuhmann/improved-aesthetic-predictor.

    Raises:
        ModelError: no CLIP model there, see `Clip`; or a head that cannot be read, is pickled or
            belongs to another model.

    """

    model: str
    head: str
    reads_prompts = False

    def __post_init__(self) -> None:
        _ = self._clip.preprocessing
        if self._head.width != (width := self._clip.model.config.projection_dim):
            raise ModelError(
                f"the head {self.head!r} reads vectors of {self._head.width} numbers, and the CLIP "
                f"model {self.model!r} makes {width}; the head belongs to another model"
            )

    @property
    def name(self) -> str:
        """Without its model."""
        return "aesthetic"

    def reward(self, images: Images, prompts: Sequence[str]) -> Scores:
        """The head's verdict on each picture."""
        clip = placed(self._clip, images)
        assert isinstance(clip, Clip)
        return placed(self._head, images)(clip.image_vectors(images))

    @cached_property
    def _clip(self) -> Clip:
        return Clip(self.model)

    @cached_property
    def _head(self) -> PreferenceHead:
        state = read_weights(Path(self.head), "the aesthetic head")
        return PreferenceHead(state).eval().requires_grad_(False)
