"""ImageReward: how people would rate a picture of a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from adjointdpm.metrics.base import Images, Scores
from adjointdpm.metrics.networks import placed
from adjointdpm.metrics.networks.image_reward import ImageRewardNetwork
from adjointdpm.metrics.reward import Reward


@dataclass(frozen=True)
class ImageReward(Reward):
    """How people would rate each picture for its prompt, about −2.5 to 2.5; higher is better.

    Xu et al. (2023, arXiv 2304.05977): BLIP reads the prompt while it looks at the picture, and a
    small head scores what it read. Prompts are read to their 35th token.

    Args:
        model: the folder, or hub id, with the state dict of ImageReward.pt from THUDM/ImageReward
            as `model.safetensors`, under its own names, and the tokenizer of bert-base-uncased
            (`tokenizer.json` or `vocab.txt`).

    Raises:
        ModelError: a file or a tensor is missing, or the weights are pickled.

    """

    model: str

    def __post_init__(self) -> None:
        _ = self._network

    @property
    def name(self) -> str:
        """Without its model."""
        return "imagereward"

    def reward(self, images: Images, prompts: Sequence[str]) -> Scores:
        """The standardised reward."""
        return placed(self._network, images)(images, list(prompts))

    @cached_property
    def _network(self) -> ImageRewardNetwork:
        with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read
            return ImageRewardNetwork(self.model)
