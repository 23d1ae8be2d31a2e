"""The same picture, changed in ways that leave what it shows as it is."""

from itertools import permutations

import torch.nn.functional as F

from adjointdpm.metrics.base import Images

_SHIFT = 1 / 16  # of a side
_DARKER, _BRIGHTER = 0.8, 1.2


def changed_views(images: Images) -> list[Images]:
    """Pictures as they are, then mirrored, darker, brighter, grey, shifted four ways, and coarser.

    A recogniser that finds a subject in a picture and not in these sees something else than people.

    Args:
        images: in [0, 1].

    """
    height, width = images.shape[-2:]
    down, right = max(1, round(height * _SHIFT)), max(1, round(width * _SHIFT))
    coarse = F.interpolate(images, scale_factor=0.5, mode="area")
    return [
        images,
        images.flip(-1),
        (images * _DARKER).clamp(0, 1),
        (images * _BRIGHTER).clamp(0, 1),
        images.mean(-3, keepdim=True).expand_as(images),
        *(_shifted(images, y, x) for y, x in ((down, 0), (-down, 0), (0, right), (0, -right))),
        F.interpolate(coarse, (height, width), mode="bilinear"),
    ]


def repainted(images: Images) -> list[Images]:
    """Pictures as they are, then in five other colours: red, green and blue change places.

    Args:
        images: in [0, 1].

    """
    return [images[..., list(order), :, :] for order in permutations(range(3))]


def _shifted(images: Images, down: int, right: int) -> Images:
    """Moved, with the border's colours where nothing was."""
    y, x = abs(down), abs(right)
    padded = F.pad(images, (x, x, y, y), mode="replicate")
    height, width = images.shape[-2:]
    return padded[..., y - down : y - down + height, x - right : x - right + width]
