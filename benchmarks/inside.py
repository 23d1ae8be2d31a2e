"""A clock around a network: the seconds that pass inside of it, forwards and backwards.

It counts whoever calls the network.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.engine.tree import leaves, tree_map


def clock(device: torch.device) -> Callable[[], float]:
    """A function that returns seconds from an arbitrary start.

    On a CPU, where others may share a core, they are processor time of this process. Elsewhere the
    time is read when all work on the device is done.
    """
    if device.type == "cpu":
        return time.process_time

    def now() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


class Inside(nn.Module):
    """The network, and how long it ran.

    A forward pass counts from call to return. A backward pass counts from the gradient of the
    output to the last gradient of an input; if the forward pass is run again in between, from the
    start of that, so that what leads to it counts as outside.

    Attributes:
        seconds: total of all passes so far.
        calls: forward passes, those in a backward pass included.
        vjps: backward passes.

    """

    def __init__(self, network: nn.Module, now: Callable[[], float]) -> None:
        super().__init__()
        self.network = network
        self._now = now
        self._since: float | None = (
            None  # in a backward pass: up to where its seconds are counted is this
        )
        self._waiting = 0  # gradients of inputs that this backward pass still owes
        self.seconds, self.calls, self.vjps = 0.0, 0, 0

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """The network's output."""
        started = self._now()
        self.calls += 1
        again = self._since is not None
        if again:
            self._since = started
        # Hooks on views: the tensors themselves have gradients from elsewhere.
        x, cond = (tree_map(lambda tensor: tensor.view_as(tensor), tree) for tree in (x, cond))
        ends = [tensor for tensor in [x, *leaves(cond)] if tensor.requires_grad]
        for tensor in ends:
            tensor.register_hook(self._end)
        output = self.network(x, t, cond)
        if output.requires_grad:
            output = output.view_as(output)
            output.register_hook(lambda _: self._begin(len(ends)))
        if not again:
            self.seconds += self._now() - started
        return output

    def _begin(self, ends: int) -> None:
        self.vjps += 1
        self._since, self._waiting = self._now(), ends

    def _end(self, _: Tensor) -> None:
        assert self._since is not None
        now = self._now()
        self.seconds += now - self._since
        self._waiting -= 1
        self._since = now if self._waiting else None
