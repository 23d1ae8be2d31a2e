"""Pictures as a metric should see them: as they are shown, with a gradient that still leads back.

A model's last layer may make colours below 0 and above 1. Nobody ever sees them: a metric that is
pleased there has gained nothing, and one that takes a root or a logarithm fails. A clamp alone
would have no gradient there, and a colour that went too far could never come back.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Samples = Float[Tensor, "batch *sample"]


def as_shown(images: Samples) -> Samples:
    """Colours beyond [0, 1] become 0 or 1; sound stays as it is.

    The gradient is that of the nearest colour that can be shown, less what would lead further
    beyond when one steps against it: that of the projection onto [0, 1].

    Args:
        images: pictures `[B, 3, H, W]`, videos `[B, F, 3, H, W]`, or sound `[B, C, T]`.

    """
    return _Shown.apply(images) if images.ndim > 3 else images


class _Shown(torch.autograd.Function):
    """A clamp whose gradient leads back."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Clamp to [0, 1]."""
        ctx.save_for_backward(images > 1, images < 0)
        return images.clamp(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Drop what would lead further beyond."""
        above, below = ctx.saved_tensors
        return gradient.masked_fill((above & (gradient < 0)) | (below & (gradient > 0)), 0)
