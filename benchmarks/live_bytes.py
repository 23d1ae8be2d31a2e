"""Bytes of tensors that live at one time, real ones or those of `FakeTensorMode`.

A fake tensor has a shape and no data, so that networks which fit no memory can be counted.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations in its block make, for as long as they exist.

    Attributes:
        now: bytes at present.
        peak: the most so far.

    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._seen: set[int] = set()  # addresses of storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._note((args, kwargs), counted=False)  # what was there before
        found = func(*args, **kwargs)
        self._note(found, counted=True)
        return found

    def _note(self, tree: Any, counted: bool) -> None:
        for tensor in tree_flatten(tree)[0]:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in self._seen:
                continue
            size = storage.nbytes() if counted else 0
            self._seen.add(storage._cdata)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, storage._cdata, size)

    def _gone(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self.now -= size


@dataclass(frozen=True)
class Need:
    """Bytes of one network call with a gradient for its inputs.

    Attributes:
        weights: of the network.
        graph: what the call holds for its backward pass, its output included.
        peak: the most that lives at one time in the call and its backward pass, weights and inputs
            not counted.

    """

    weights: int
    graph: int
    peak: int


def need_of(network: nn.Module, call: Callable[[], tuple[Tensor, Tensor]]) -> Need:
    """Run one call and its backward pass.

    Args:
        network: its weights frozen.
        call: makes the arguments and runs the network; returns the tensor whose gradient is
            wanted, and the output.

    """
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    with LiveBytes() as live:
        wanted, output = call()
        graph = live.now
        torch.autograd.grad(output, wanted, torch.ones_like(output))
    return Need(weights, graph, live.peak)
