"""Preservation: how much a drawing differs from a reference picture, whatever the colours."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import ShapeError
from adjointdpm.metrics.base import Images, Metric, Samples, Scores

_SMALLEST = 8


def structure_distance(images: Samples, reference: Samples) -> Scores:
    """1 − correlation of two pictures' edge maps, in [0, 2]; 0 is the same drawing, recoloured.

    An edge map is the length of the colour gradient (Sobel) at each pixel, at full and at half
    resolution. It does not change when light and dark swap or a background changes its colour, and
    correlation ignores contrast: what counts is where the lines are. Of videos it is the mean over
    frames.
    """
    if images.shape != reference.shape:
        raise ShapeError(
            f"pictures {tuple(images.shape)} and reference {tuple(reference.shape)} must have the "
            f"same shape"
        )
    if images.ndim == 5:
        frames = structure_distance(images.flatten(0, 1), reference.flatten(0, 1))
        return frames.unflatten(0, images.shape[:2]).mean(1)
    scales = ((images, reference), (F.avg_pool2d(images, 2), F.avg_pool2d(reference, 2)))
    return torch.stack([1 - _correlation(_edges(x), _edges(y)) for x, y in scales]).mean(0)


@dataclass(frozen=True)
class Structure(Metric):
    """`structure_distance` to fixed reference pictures, one for the whole batch or one each.

    Args:
        reference: `[1, 3, H, W]` or `[B, 3, H, W]` in [0, 1].

    """

    reference: Float[Tensor, "any 3 height width"]
    smallest = _SMALLEST

    def __call__(self, images: Images, /, prompts: Sequence[str] | None = None) -> Scores:
        """Distance of each picture."""
        return structure_distance(images, self.reference.to(images).expand_as(images))


def _edges(images: Tensor) -> Float[Tensor, "batch pixels"]:
    sobel = images.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 8
    kernels = torch.stack([sobel, sobel.T])[:, None]  # horizontal, vertical
    batch, channels, height, width = images.shape
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate").reshape(
        batch * channels, 1, height + 2, width + 2
    )
    gradient = F.conv2d(padded, kernels).view(batch, channels * 2, height * width)
    return (gradient.square().sum(1) + 1e-6).sqrt()


def _correlation(x: Float[Tensor, "batch pixels"], y: Float[Tensor, "batch pixels"]) -> Scores:
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return (x * y).sum(1) / (x.square().sum(1) * y.square().sum(1) + 1e-8).sqrt()
