"""The exponential moving average of what is learned: steadier than any single iterate."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from adjointdpm.variables import Variable


class Average:
    """The average of a variable's tensors over the steps; the weights decay into the past.

    The decay of step k is min(decay, (1 + k) / (10 + k)): with the full decay from the start, the
    average would stay at the initial values for about 1 / (1 − decay) steps.

    Args:
        variable: what is averaged.
        decay: in [0, 1); 0 is no average, at no cost.

    """

    def __init__(self, variable: Variable, decay: float) -> None:
        self.variable, self.decay = variable, decay
        # In half precision small steps would be lost.
        self.values = {
            name: t.detach().to(torch.promote_types(t.dtype, torch.float32), copy=True)
            for name, t in self._now().items()
        }

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Update the average after optimiser step `iteration`, counted from 1."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        for name, tensor in self._now().items():
            self.values[name].lerp_(tensor.to(self.values[name]), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the variable hold the average inside the block, projected onto its set.

        Afterwards it holds what it had held, bit for bit.
        """
        if not self.decay:
            yield
            return
        before = {name: tensor.detach().clone() for name, tensor in self._now().items()}
        try:
            self.variable.load_tensors(self.values)
            self.variable.project()
            yield
        finally:
            self.variable.load_tensors(before)

    def _now(self) -> dict[str, Tensor]:
        return self.variable.tensors() if self.decay else {}
