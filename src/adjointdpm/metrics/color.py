"""Distance of a picture's colour statistics to those of a colour mood."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import InvalidInputError, UnknownNameError
from adjointdpm.metrics.base import Images, Metric, Scores

# Luma, blue and red difference of ITU-R BT.601, from R, G, B in [0, 1].
_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))

# Mean colour (R, G, B) that a picture in this mood has.
MOODS: dict[str, tuple[float, float, float]] = {
    "golden_hour": (0.90, 0.66, 0.36),
    "dusk": (0.36, 0.27, 0.50),
    "teal": (0.25, 0.60, 0.60),
    "sepia": (0.80, 0.68, 0.52),
}


@dataclass(frozen=True)
class ColorStatistics(Metric):
    """Distance between a picture's colours and those of a mood; 0 is a perfect match.

    It is sqrt(|Δmean|² + |Δstd|²): the Fréchet distance between Gaussians with independent channels
    in luma and chroma. Means are compared, and standard deviations of the chroma if `spread` is
    given. Matching these statistics recolours pictures in Reinhard et al. (2001, "Color transfer
    between images"). A distance ends at 0, where a plain "more orange" could be driven ever lower.

    Args:
        mood: one of `MOODS`; or give `red`, `green` and `blue`, the mean colour in [0, 1].
        spread: the standard deviation that both chroma channels should have; None leaves it free.
            Small values make pictures monochrome.

    Raises:
        UnknownNameError: no such mood.
        InvalidInputError: neither a mood nor a whole colour, or a value out of range.

    """

    mood: str | None = None
    red: float | None = None
    green: float | None = None
    blue: float | None = None
    spread: float | None = None

    def __post_init__(self) -> None:
        given = (self.red, self.green, self.blue)
        if self.mood is not None:
            if self.mood not in MOODS:
                raise UnknownNameError(
                    f"color mood {self.mood!r} is unknown; choose one of {', '.join(MOODS)}, or "
                    f"give red, green and blue"
                )
            if any(value is not None for value in given):
                raise InvalidInputError(
                    f"color metric: give a mood ({self.mood}) or red, green and blue, not both"
                )
        elif not all(isinstance(value, int | float) and 0 <= value <= 1 for value in given):
            raise InvalidInputError(
                f"color metric: red, green, blue = {given} must be three numbers in [0, 1]; or "
                f"give a mood: {', '.join(MOODS)}"
            )
        if self.spread is not None and not 0 <= self.spread <= 0.5:
            raise InvalidInputError(f"color metric: spread={self.spread} must be in [0, 0.5]")

    @property
    def name(self) -> str:
        """The text that makes this metric, without its spread."""
        return (
            f"color:mood={self.mood}"
            if self.mood
            else f"color:red={self.red},green={self.green},blue={self.blue}"
        )

    @property
    def target(self) -> tuple[float, float, float]:
        """The mean colour that is wanted: R, G, B in [0, 1]."""
        if self.mood is not None:
            return MOODS[self.mood]
        assert self.red is not None
        assert self.green is not None
        assert self.blue is not None
        return self.red, self.green, self.blue

    def __call__(self, images: Images, /, prompts: Sequence[str] | None = None) -> Scores:
        """Distance of each picture."""
        colors = _to_ycbcr(images).flatten(2)  # [B, 3, pixels]
        target = _to_ycbcr(images.new_tensor(self.target).view(1, 3, 1, 1)).view(1, 3)
        squared = (colors.mean(2) - target).square().sum(1)
        if self.spread is not None:
            deviation = (colors[:, 1:].var(2, correction=0) + 1e-6).sqrt()
            squared = squared + (deviation - self.spread).square().sum(1)
        return (squared + 1e-8).sqrt()  # the root's slope is infinite at 0


def _to_ycbcr(
    images: Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch 3 height width"]:
    return torch.einsum("ij,bjhw->bihw", images.new_tensor(_YCBCR), images)
