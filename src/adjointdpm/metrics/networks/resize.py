"""What every network does to the pictures first."""

import torch
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
    check_pictures(images)
    return resampled(images, size, size, mode)


def resampled(
    images: Float[Tensor, "B 3 H W"], height: int, width: int, mode: str
) -> Float[Tensor, "B 3 height width"]:
    """Pictures of another size; half precision, which torch cannot smooth, is widened for it."""
    if images.shape[-2:] == (height, width):
        return images
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    return F.interpolate(wide, (height, width), mode=mode, antialias=True, align_corners=False).to(
        images.dtype
    )


def check_pictures(images: Tensor) -> None:
    """Raise ShapeError unless `images` is [B, 3, H, W] with sides of at least 8 pixels."""
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < SMALLEST:
        raise ShapeError(
            f"images must have the shape [B, 3, H, W] with H, W ≥ {SMALLEST}, not "
            f"{tuple(images.shape)}"
        )
