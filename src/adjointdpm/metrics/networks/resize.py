"""What every network does to the pictures first."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import ShapeError

SMALLEST = 8  # pixels a side, below which an enlarged picture shows nothing


def resized(
    images: Float[Tensor, "B 3 H W"], size: int, mode: str = "bilinear"
) -> Float[Tensor, "B 3 size size"]:
    """Pictures of `size`×`size` pixels, smoothed first where they shrink.

    Raises:
        ShapeError: `images` is not [B, 3, H, W], or a side is shorter than 8 pixels.

    """
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < SMALLEST:
        raise ShapeError(
            f"images must have the shape [B, 3, H, W] with H, W ≥ {SMALLEST}, not "
            f"{tuple(images.shape)}"
        )
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode=mode, antialias=True, align_corners=False)
