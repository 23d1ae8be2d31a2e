"""The reference pictures, drawn by formulas so that they are nobody's."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Picture = Float[Tensor, "3 height width"]
SIDE = 64


def gingham() -> Picture:
    """A woven cloth of green and cream stripes."""
    y, x = _grid()
    across, down = (torch.sin(2 * math.pi * 5 * along) > 0 for along in (x, y))
    share = (across.float() + down.float()) / 2
    return torch.lerp(_color(0.96, 0.94, 0.84), _color(0.07, 0.42, 0.27), share)


def dots() -> Picture:
    """Dark red dots on pale blue, as in old print."""
    y, x = _grid()
    height = torch.cos(2 * math.pi * 7 * (x + y)) + torch.cos(2 * math.pi * 7 * (x - y))
    inside = torch.sigmoid(12 * (height - 0.6))
    return torch.lerp(_color(0.72, 0.85, 0.95), _color(0.55, 0.05, 0.12), inside)


def sky() -> Picture:
    """From orange below to blue above."""
    y, _ = _grid()
    return torch.lerp(_color(0.25, 0.40, 0.80), _color(0.98, 0.68, 0.40), y)


PICTURES: dict[str, Callable[[], Picture]] = {"gingham": gingham, "dots": dots, "sky": sky}


def _grid() -> list[Tensor]:
    return list(torch.meshgrid(*[torch.linspace(0, 1, SIDE)] * 2, indexing="ij"))


def _color(*channels: float) -> Tensor:
    return torch.tensor(channels).view(3, 1, 1).expand(3, SIDE, SIDE)
