"""Gradients through float16, scaled so that they do not leave its range."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.metrics.base import Samples
from adjointdpm.variables.freezing import parameters

# The range of the scale. Below it many numbers of a gradient are lost (for the bundled model, below
# 2^-12); above it the pictures' own gradient overflows.
_LEAST, _MOST = 2.0**-16, 2.0**15
_STEADY = 50  # steps without a change, after which the scale goes back towards 1

Draw = Callable[[], tuple[Samples, Float[Tensor, ""]]]


@dataclass
class GradientScale:
    """The size that a loss's gradient starts with, before it goes back through float16 networks.

    In float16, numbers below 6e-8 are 0 and those above 65504 are infinite. The gradient of a mean
    over many pixels is soon too small. So the pictures' gradient is multiplied by a power of two
    first, and what arrives at the learned tensors is divided by it. The scale shrinks after a
    gradient that is not finite, grows after one that is 0, and goes back to 1 with time.

    Args:
        largest: the largest number of the pictures' gradient is scaled to this bound.
        steady: steps since the bound changed.

    """

    largest: float = 1.0
    steady: int = 0

    def gradients(
        self, draw: Draw, tensors: Sequence[Tensor], float16: bool
    ) -> list[Tensor | None]:
        """∂loss/∂tensors of a loss that depends on the tensors through pictures alone.

        Args:
            draw: returns the pictures and the loss. It is called again if numbers left the range.
            tensors: leaves of the pictures' graph, in float32 or wider.
            float16: whether the graph goes through float16, see `uses_float16`; if not, nothing is
                scaled or repeated.

        Returns:
            A gradient for each tensor; None where the loss does not depend on it.

        """
        overflowed = False
        while True:
            images, loss = draw()
            start = (
                torch.autograd.grad(loss, images, allow_unused=True)[0]
                if images.requires_grad and loss.requires_grad
                else None
            )
            if start is None:
                return [None] * len(tensors)
            size = start.abs().amax().item()
            if not float16 or size == 0 or not math.isfinite(size):
                return list(torch.autograd.grad(images, tensors, start, allow_unused=True))
            factor = self.largest / 2.0 ** math.frexp(size)[1]
            found = torch.autograd.grad(images, tensors, start * factor, allow_unused=True)
            size = largest_of(found)
            if not math.isfinite(size) and self.largest > _LEAST:
                overflowed = True
                self._change(self.largest / 4)
            elif size == 0 and self.largest < _MOST and not overflowed:
                self._change(_MOST)
            else:
                return [None if gradient is None else gradient / factor for gradient in found]

    def step_done(self) -> None:
        """Count a step; after enough steps without a change, go back towards 1."""
        self.steady += 1
        if self.steady >= _STEADY and self.largest != 1:
            self._change(self.largest * 2 if self.largest < 1 else self.largest / 2)

    def _change(self, largest: float) -> None:
        self.largest, self.steady = largest, 0


def largest_of(gradients: Sequence[Tensor | None]) -> float:
    """The largest absolute value in all gradients: 0 without any, NaN if one holds NaN."""
    return torch.nn.utils.get_total_norm(
        [gradient for gradient in gradients if gradient is not None], math.inf
    ).item()


def uses_float16(model: Any) -> bool:
    """Whether a weight of the model's pipeline is in float16, or autocast would cast it."""
    if any(parameter.dtype == torch.float16 for parameter in parameters(model.pipe)):
        return True
    kinds = {
        parameter.device.type
        for parameter in parameters(model.pipe)
        if torch.amp.is_autocast_available(parameter.device.type)
    }
    return any(
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
        for kind in kinds
    )
