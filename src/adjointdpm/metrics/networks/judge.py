"""The judge that is bundled with the tiny model: which thing a picture shows, in which style."""

import json
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from adjointdpm.errors import ModelError, ShapeError
from adjointdpm.metrics.networks.resize import resampled

BUNDLED = Path(__file__).parents[2] / "pipelines" / "tiny" / "judge"
SIZE = 64  # pixels a side


class Judge(nn.Module):
    """A small convolutional classifier of concepts and drawing styles.

    It learned from real drawings only, plain and repainted in other styles, and never saw a picture
    of the bundled model. So it can measure whether an optimised picture still shows what its prompt
    asked for, whatever its style, but only if nobody optimised against it.

    Four levels, each halving the resolution, and two linear heads on pooled features. Group
    normalisation and SiLU keep the verdict on a picture smooth and independent of its batch.

    Args:
        concepts: the names of the concepts, among them some that the bundled model never saw.
        styles: the names of the drawing styles.
        widths: channels of each level.

    Attributes:
        classes: the concepts, for `class_groups`.

    """

    def __init__(
        self, concepts: list[str], styles: list[str], widths: tuple[int, ...] = (24, 48, 96, 128)
    ) -> None:
        super().__init__()
        self.concepts = self.classes = concepts
        self.styles = styles
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            for source, stride in ((before, 2), (after, 1)):
                layers += [
                    nn.Conv2d(source, after, 3, stride, 1, bias=False),
                    nn.GroupNorm(8, after),
                    nn.SiLU(),
                ]
        self.trunk = nn.Sequential(*layers)
        self.concept = nn.Linear(widths[-1], len(concepts))
        self.style = nn.Linear(widths[-1], len(styles))
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: str | Path = BUNDLED) -> Self:
        """Read `config.json` and `model.safetensors` from a folder, the bundled one by default.

        The weights become float32. No random numbers are used up.

        Raises:
            ModelError: the folder lacks one of the files, or they do not belong together.

        """
        folder = Path(folder)
        try:
            config: dict[str, Any] = json.loads((folder / "config.json").read_text())
            with torch.random.fork_rng(devices=[]):
                judge = cls(
                    list(config["concepts"]), list(config["styles"]), tuple(config["widths"])
                )
            judge.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"no judge could be read from {str(folder)!r} ({error}); it takes a config.json "
                f"and a model.safetensors, as written by training/judges.py"
            ) from error
        return judge.float()

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """The concepts' logits."""
        return self.concept_logits(images)

    def concept_logits(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Unnormalised log-probabilities of `concepts`."""
        return self.concept(self.pooled(images))

    def style_logits(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B S"]:
        """Unnormalised log-probabilities of `styles`."""
        return self.style(self.pooled(images))

    def pooled(self, images: Tensor) -> Float[Tensor, "B F"]:
        """What the heads see of images in [0, 1], which are resized to 64×64 if they must be.

        Raises:
            ShapeError: `images` is not [B, 3, H, W].

        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ShapeError(f"images must have the shape [B, 3, H, W], not {tuple(images.shape)}")
        images = resampled(images, SIZE, SIZE, "bilinear")
        return self.trunk(2 * images - 1).mean((2, 3))
