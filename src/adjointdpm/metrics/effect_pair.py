"""An effect that is shown by a pair of pictures, one without it and one with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.errors import InvalidInputError
from adjointdpm.metrics.base import Images, Metric, Scores
from adjointdpm.metrics.gram_style import GramStyle
from adjointdpm.metrics.reference_picture import Picture, reference_name

# Of a layer's Gram matrix: saving a picture as JPEG changes it by as much.
_LEAST = 1e-4


@dataclass(frozen=True, eq=False)
class EffectPair(Metric):
    """How much of an effect a picture lacks: 1 as in the first picture, 0 as in the second.

    With the Gram matrices G of `GramStyle` and D = G(after) − G(before), it is the mean over layers
    of (1 − p)², p = <G(x) − G(before), D> / <D, D>. What both pictures show cancels in D, so that
    the effect is asked for and not its example. A change of G at right angles to D costs nothing.
    Choose a plain picture of the kind that will be drawn: a pair says little about pictures that
    differ much from it.

    Args:
        before: a picture without the effect: a file, or a tensor [3, H, W] in [0, 1].
        after: the same with the effect.
        network, size: as `GramStyle` takes them.

    Raises:
        InvalidInputError: a picture that cannot be read, an impossible size, or two pictures that
            the network cannot tell apart.
        UnknownNameError, ModelError, MetricError: see `GramStyle`.

    """

    before: Picture
    after: Picture
    network: str | nn.Module = "efficientnet-lite0"
    size: int = 128
    smallest: int = field(default=8, init=False)
    hackable = True

    def __post_init__(self) -> None:
        sizes = [change.norm() / max(first.norm().item(), 1e-12) for first, change in self._changes]
        if not all(size > _LEAST for size in sizes):
            raise InvalidInputError(
                f"pair metric: {reference_name(self.before)} and {reference_name(self.after)} look "
                f"the same to {self.network}; the second must show the effect"
            )

    @property
    def name(self) -> str:
        """The text that makes this metric, without its network and size."""
        return f"pair:before={reference_name(self.before)},after={reference_name(self.after)}"

    def __call__(self, images: Images, /, prompts: Sequence[str] | None = None) -> Scores:
        """How far each picture is from the second, as a share of the way from the first."""
        scores = []
        for matrix, (first, change) in zip(self._first.grams(images), self._changes, strict=True):
            first, change = first.to(matrix), change.to(matrix)
            share = ((matrix - first) * change).sum((1, 2)) / change.square().sum()
            scores.append((1 - share).square())
        return torch.stack(scores).mean(0)

    @cached_property
    def _first(self) -> GramStyle:
        return GramStyle(self.before, self.network, self.size)

    @cached_property
    def _changes(self) -> list[tuple[Float[Tensor, "1 C C"], Float[Tensor, "1 C C"]]]:
        """Each layer's Gram matrix of the first picture, and its change to the second."""
        second = GramStyle(self.after, self.network, self.size)
        return [(a, b - a) for a, b in zip(self._first.targets, second.targets, strict=True)]
