"""HPS v2.1: the Human Preference Score."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from adjointdpm.metrics.base import Images, Scores
from adjointdpm.metrics.networks import Clip, placed
from adjointdpm.metrics.networks.preprocessing import Preprocessing
from adjointdpm.metrics.reward import Reward


@dataclass(frozen=True)
class HPS(Reward):
    """How much people would prefer each picture for its prompt, about 20 to 35; higher is better.

    Wu et al. (2023, arXiv 2306.09341): OpenCLIP ViT-H/14, trained on HPD v2. The score is 100 ·
    cosine of picture and prompt, as in the official tables; `hpsv2.score` returns the cosine. A
    picture that is not square gets black bars, as there.

    Args:
        model: the folder of a CLIP model of transformers with these weights, or a hub id. Either
            all of it in transformers' layout; or config and tokenizer of
            laion/CLIP-ViT-H-14-laion2B-s32B-b79K and, as `model.safetensors`, the state dict of
            HPS_v2.1_compressed.pt from xswu/HPSv2 under its own names.

    Raises:
        ModelError: no CLIP model there, see `Clip`.

    """

    model: str

    def __post_init__(self) -> None:
        _ = self._clip

    @property
    def name(self) -> str:
        """Without its model."""
        return "hps"

    def reward(self, images: Images, prompts: Sequence[str]) -> Scores:
        """100 · cosine of each picture and its prompt."""
        clip = placed(self._clip, images)
        assert isinstance(clip, Clip)
        bars = Preprocessing(clip.size, "pad")
        return 100 * clip.cosines(images, prompts, self.name, bars)

    @cached_property
    def _clip(self) -> Clip:
        return Clip(self.model)
