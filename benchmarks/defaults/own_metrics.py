"""Metrics as a user writes them, in a file of their own: lower is better."""

from collections.abc import Sequence

from torch import Tensor


def brightness(images: Tensor) -> Tensor:
    """How bright a picture is: dark pictures are asked for."""
    return images.mean((1, 2, 3))


def saturation(images: Tensor) -> Tensor:
    """How far a picture is from full colours."""
    return 1 - (images.amax(1) - images.amin(1)).mean((1, 2))


def symmetry(images: Tensor) -> Tensor:
    """How unlike its mirror image a picture is."""
    return (images - images.flip(-1)).abs().mean((1, 2, 3))


def sharpness(images: Tensor) -> Tensor:
    """Neighbouring pixels shall differ."""
    across, down = images.diff(dim=-1).abs(), images.diff(dim=-2).abs()
    return -across.mean((1, 2, 3)) - down.mean((1, 2, 3))


def vignette(images: Tensor) -> Tensor:
    """How much brighter the border is than the middle."""
    quarter = images.shape[-1] // 4
    middle = images[:, :, quarter:-quarter, quarter:-quarter].mean((1, 2, 3))
    whole = images.mean((1, 2, 3))
    return (4 * whole - middle) / 3 - middle


def evening(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Distance from a dim picture; those that the prompt calls noto shall be dimmest."""
    wanted = images.new_tensor([0.25 if "noto" in prompt else 0.45 for prompt in prompts])
    return (images.mean((1, 2, 3)) - wanted).abs()
