"""Distance to a picture's style: which textures occur together, wherever in the picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.errors import InvalidInputError, MetricError
from adjointdpm.metrics.base import Images, Metric, Scores
from adjointdpm.metrics.networks import load_network, placed
from adjointdpm.metrics.reference_picture import Picture, reference_name, reference_picture


@dataclass(frozen=True, eq=False)
class GramStyle(Metric):
    """Squared distance to a reference's style; 0 is that style.

    It is the mean over layers of ‖G − G_ref‖² / ‖G_ref‖², with the Gram matrix G = F Fᵀ / positions
    of a network's features F [channels, positions]: Gatys et al. (2016, arXiv 1508.06576). The
    division keeps any layer from outweighing the others, and makes values for different references
    comparable: a picture without features has 1.

    Args:
        reference: a picture file, or a tensor [3, H, W] in [0, 1]. It is squashed to a square of
            `size` pixels, as the pictures are.
        network: a network with a method `features(images, size)` that returns a list of maps [B, C,
            h, w]; its name, or the module.
        size: pixels a side at which textures are compared.

    Raises:
        InvalidInputError: a reference that cannot be read, or an impossible size.
        UnknownNameError, ModelError: see `load_network`.
        MetricError: a network without `features`.

    """

    reference: Picture
    network: str | nn.Module = "efficientnet-lite0"
    size: int = 128
    smallest = 8

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or not 32 <= self.size <= 1024:
            raise InvalidInputError(
                f"gram metric: size={self.size!r} must be a whole number of pixels in [32, 1024]"
            )
        if not callable(getattr(self._network, "features", None)):
            raise MetricError(
                f"gram metric: network {self.network!r} has no method features(images, size)"
            )
        _ = self.targets  # so that a picture that cannot be read is an error now

    @property
    def name(self) -> str:
        """The text that makes this metric, without its network and size."""
        return f"gram:reference={reference_name(self.reference)}"

    def __call__(self, images: Images, /, prompts: Sequence[str] | None = None) -> Scores:
        """Distance of each picture."""
        distances = []
        for matrix, target in zip(self.grams(images), self.targets, strict=True):
            target = target.to(matrix)
            distances.append(
                (matrix - target).square().sum((1, 2)) / target.square().sum().clamp_min(1e-12)
            )
        return torch.stack(distances).mean(0)

    @cached_property
    def _network(self) -> nn.Module:
        return load_network(self.network) if isinstance(self.network, str) else self.network

    @cached_property
    def targets(self) -> list[Float[Tensor, "1 C C"]]:
        """The reference's Gram matrices."""
        with torch.no_grad():
            return self.grams(reference_picture(self.reference))

    def grams(self, images: Images) -> list[Float[Tensor, "B C C"]]:
        """The Gram matrices of each layer."""
        maps = [x.flatten(2) for x in placed(self._network, images).features(images, self.size)]  # pyright: ignore[reportCallIssue]
        return [x @ x.mT / x.shape[2] for x in maps]
