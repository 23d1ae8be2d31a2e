"""The independent judge shipped with the bundled model: which thing a picture shows, and in which
drawing style.

It learned from real pictures only and never saw a generated one, so it can measure whether an
optimised picture still shows what its prompt asked for. It is differentiable, but whoever optimises
against it can no longer be judged by it.
"""

import json
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from adjointdpm.errors import ModelError, ShapeError

BUNDLED = Path(__file__).parents[1] / "pipelines" / "tiny" / "judge"
SIZE = 64  # pixels a side


class JudgeNetwork(nn.Module):
    """A small convolutional classifier: four levels, each halving the resolution, then two linear
    heads on pooled features.

    Group normalisation and SiLU, so that the verdict on a picture is smooth and does not depend on
    the rest of its batch.
    """

    def __init__(
        self, concepts: int, styles: int, widths: tuple[int, ...] = (24, 48, 96, 128)
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            for source, stride in ((before, 2), (after, 1)):
                layers += [
                    nn.Conv2d(source, after, 3, stride, 1, bias=False),
                    nn.GroupNorm(8, after),
                    nn.SiLU(),
                ]
        self.trunk = nn.Sequential(*layers)
        self.concept = nn.Linear(widths[-1], concepts)
        self.style = nn.Linear(widths[-1], styles)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """Pooled features of images in [0, 1]."""
        return self.trunk(2 * images - 1).mean((2, 3))


class Judge:
    """Names for what `JudgeNetwork` answers.

    Attributes:
        concepts: the names of the concept classes, among them those that the bundled generator
            never saw.
        styles: the names of the drawing styles.
    """

    def __init__(self, network: JudgeNetwork, concepts: list[str], styles: list[str]) -> None:
        self.network = network.eval().requires_grad_(False)
        self.concepts = concepts
        self.styles = styles

    @classmethod
    def load(cls, folder: str | Path = BUNDLED) -> "Judge":
        """Read `config.json` and `model.safetensors` from a folder, by default the bundled one; the
        weights become float32.

        Raises:
            ModelError: the folder lacks one of the files, or they do not belong together.
        """
        folder = Path(folder)
        try:
            config: dict[str, Any] = json.loads((folder / "config.json").read_text())
            concepts, styles = list(config["concepts"]), list(config["styles"])
            network = JudgeNetwork(len(concepts), len(styles), tuple(config["widths"]))
            network.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"no judge could be read from {str(folder)!r} ({error}); it takes a config.json "
                f"and a model.safetensors, as written by training/judges.py"
            ) from error
        return cls(network.float(), concepts, styles)

    def to(self, *args: Any, **kwargs: Any) -> "Judge":
        """Move the network, as `nn.Module.to` does; returns itself."""
        self.network.to(*args, **kwargs)
        return self

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        """What the heads see: pooled features of images in [0, 1], resized to 64×64 if they have
        another size.

        Raises:
            ShapeError: `images` is not [B, 3, H, W].
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ShapeError(f"images must have the shape [B, 3, H, W], not {tuple(images.shape)}")
        if images.shape[-2:] != (SIZE, SIZE):
            images = F.interpolate(
                images, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False
            )
        return self.network(images)

    def concept_logits(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Unnormalised log-probabilities of `concepts`."""
        return self.network.concept(self.features(images))

    def style_logits(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B S"]:
        """Unnormalised log-probabilities of `styles`."""
        return self.network.style(self.features(images))
