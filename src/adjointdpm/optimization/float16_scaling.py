"""Gradients through float16: the pictures' gradient is brought into the middle of its range first,
and what comes back is divided again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.variables.freezing import parameters

# Below the first many numbers of a gradient are lost (of the bundled model: below 2^-12), above the
# second even the pictures' own overflow.
_LEAST, _MOST = 2.0**-16, 2.0**15
_STEADY = 50  # steps

Draw = Callable[[], tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, ""]]]


@dataclass
class GradientScale:
    """How large a loss's gradient with respect to the pictures is made before it goes through
    networks in float16.

    In float16 numbers below 6e-8 are 0 and those above 65504 infinite, and the gradient of a mean
    over many pixels is soon below the first. A gradient is linear in where it starts, so that it
    may start at any size. This size follows what is seen: smaller after a gradient that is not
    finite, larger after one that is 0, and back to 1 with time. Powers of two lose no digits.

    Args:
        largest: the bound that the largest number of the pictures' gradient is brought to.
        steady: steps since it changed.

    """

    largest: float = 1.0
    steady: int = 0

    def gradients(
        self, draw: Draw, tensors: Sequence[Tensor], float16: bool
    ) -> list[Tensor | None]:
        """∂loss/∂tensors of a loss that depends on them through pictures alone; None for those that
        it does not depend on.

        Args:
            draw: returns the pictures and the loss; called again if numbers left the range, so that
                no graph need be kept for that.
            tensors: leaves of the pictures' graph, each in float32 at least.
            float16: whether the graph goes through float16, see `uses_float16`; if not, nothing is
                scaled or repeated.

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
        """Count a step; after enough of them go back towards 1."""
        self.steady += 1
        if self.steady >= _STEADY and self.largest != 1:
            self._change(self.largest * 2 if self.largest < 1 else self.largest / 2)

    def _change(self, largest: float) -> None:
        self.largest, self.steady = largest, 0


def largest_of(gradients: Sequence[Tensor | None]) -> float:
    """The largest absolute value in all of them, 0 if there is none; NaN if there is one."""
    return torch.nn.utils.get_total_norm(
        [gradient for gradient in gradients if gradient is not None], math.inf
    ).item()


def uses_float16(model: Any) -> bool:
    """Whether a weight of a model's pipeline is in float16, or autocast would make it so."""
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
