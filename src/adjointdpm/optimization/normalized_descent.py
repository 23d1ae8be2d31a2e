"""Steepest descent with normalised gradients: the step size is a share of what is natural."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class NormalizedDescent(Optimizer):
    """Every step has the same length, in units of what is learned, whatever the gradient's size.

    A step goes along the running sum of normalised gradients, as in Dong et al. 2018 (arXiv
    1710.06081): v ← momentum · v + g / rms(g), x ← x − lr · unit · v / rms(v). A metric's scale
    does not matter, and neither does how far the sampler shrinks or blows up gradients.

    Args:
        tensors: what is learned.
        lr: the length of a step, as a share of the unit.
        units: what counts as 1, for each tensor; see `Variable.units`. Root mean squares are taken
            over the dimensions in which the unit has size 1.
        momentum: in [0, 1).

    """

    def __init__(
        self, tensors: Sequence[Tensor], lr: float, units: Sequence[Tensor], momentum: float = 0.5
    ) -> None:
        super().__init__(list(tensors), {"lr": lr})
        self._units, self._momentum = list(units), momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step; returns what the closure returns."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        (group,) = self.param_groups
        for tensor, unit in zip(group["params"], self._units, strict=True):
            if tensor.grad is None:
                continue
            state: dict[str, Any] = self.state[tensor]
            if not state:
                state["velocity"] = torch.zeros_like(tensor)
            velocity = state["velocity"]
            velocity.mul_(self._momentum).add_(normalised(tensor.grad, unit))
            tensor.sub_(group["lr"] * unit.to(tensor) * normalised(velocity, unit))
        return value


def normalised(x: Tensor, unit: Tensor) -> Tensor:
    """With a root mean square of 1 in each group of numbers that share a unit; 0 stays 0.

    Args:
        x: of any shape.
        unit: with as many dimensions; those of size 1 are averaged over. Its values do not matter.

    """
    over = [d for d in range(x.ndim) if unit.shape[d] == 1]
    # Squares of tiny gradients would underflow.
    largest = x.abs().amax(over, keepdim=True)
    x = x / torch.where(largest > 0, largest, torch.ones_like(largest))
    size = x.square().mean(over, keepdim=True).sqrt()
    return torch.where(size > 0, x / size.clamp(min=torch.finfo(x.dtype).tiny), x)
