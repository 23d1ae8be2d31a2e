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


def bricks() -> Picture:
    """A wall: rows of red bricks, each half a brick further than the last, and pale mortar."""
    y, x = _grid()
    row = (8 * y).floor()
    along = 4 * x + row % 2 / 2
    mortar = (along % 1 < 0.1) | (8 * y % 1 < 0.2)
    # Some number between 0 and 1 for each brick.
    tone = (torch.sin(12.9 * along.floor() + 78.2 * row) * 43.7) % 1 / 4
    wall = _color(0.62, 0.22, 0.15) + tone * _color(1.0, 0.5, 0.4)
    return torch.where(mortar, _color(0.85, 0.82, 0.76), wall)


def strokes() -> Picture:
    """A painter's night: blue and yellow strokes that follow two vortices and a wave."""
    y, x = _grid()
    height = 0.7 * torch.sin(2 * math.pi * (6 * y + 1.2 * torch.sin(2.6 * math.pi * x)))
    for across, down, turns in ((0.3, 0.3, 9), (0.72, 0.45, 8)):
        far = (x - across).hypot(y - down)
        angle = torch.atan2(y - down, x - across)
        height += torch.sin(2 * angle + 2 * math.pi * turns * far) * torch.exp(-3 * far)
    share = (height - height.min()) / (height.max() - height.min())
    night, day = _color(0.05, 0.10, 0.35), _color(0.15, 0.40, 0.70)
    dark = torch.lerp(night, day, 2 * share)
    light = torch.lerp(day, _color(0.98, 0.88, 0.45), 2 * share - 1)
    return torch.where(share < 0.5, dark, light).clamp(0, 1)


def hatching() -> Picture:
    """A drawing in ink on cream paper: lines that cross, closer to each other below."""
    y, x = _grid()
    one = torch.sin(2 * math.pi * 9 * (x + y)) > 0.55
    other = (torch.sin(2 * math.pi * 9 * (x - y)) > 0.55) & (y > 0.35)
    third = (torch.sin(2 * math.pi * 14 * y) > 0.7) & (y > 0.65)
    return torch.where(one | other | third, _color(0.12, 0.10, 0.16), _color(0.96, 0.93, 0.84))


PICTURES: dict[str, Callable[[], Picture]] = {"gingham": gingham, "dots": dots, "sky": sky}


def _grid() -> list[Tensor]:
    return list(torch.meshgrid(*[torch.linspace(0, 1, SIDE)] * 2, indexing="ij"))


def _color(*channels: float) -> Tensor:
    return torch.tensor(channels).view(3, 1, 1).expand(3, SIDE, SIDE)
