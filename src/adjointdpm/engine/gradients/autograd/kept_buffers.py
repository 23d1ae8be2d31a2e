"""Buffers that a network changes while it runs (running statistics, counters), kept for a replay.

A second run starts from the buffers of the first, and what it makes of them is thrown away: they
advance once a call, as if there were no second run.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.engine.gradients.autograd.network_modules import modules_behind
from adjointdpm.engine.torch_internals import change_count

_LARGEST = 2**26  # bytes of a buffer that is copied before it is known whether it changes

Place = tuple[nn.Module, str]


class KeptBuffers:
    """The buffers of one solve's network: those that change, and their values before each call.

    Args:
        modules: that may have buffers.

    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._places = _places(modules)
        self._changing: set[int] | None = None  # numbers of places; None before the first call
        self._before: dict[int, dict[int, Tensor]] = {}  # by call and number

    @contextmanager
    def recorded(self, call: int) -> Iterator[None]:
        """Remember the buffers that the block changes, as they were before it.

        If the block fails, they are put back: it may be run once more in another way.
        """
        if not self._places:
            yield
            return
        now = [getattr(module, name) for module, name in self._places]
        counts = [change_count(tensor) for tensor in now]
        watched = range(len(now)) if self._changing is None else self._changing
        copies = {i: copy for i in watched if (copy := _copy(now[i])) is not None}
        try:
            yield
        except BaseException:
            self._put_back(now, copies)
            raise
        after = [getattr(module, name) for module, name in self._places]
        changed = {
            i
            for i, tensor in enumerate(after)
            if tensor is not now[i] or change_count(tensor) != counts[i]
        }
        if self._changing is None:  # batch normalisation changes its statistics without a count
            changed |= _different({i: (after[i], copy) for i, copy in copies.items()})
        self._changing = changed | (self._changing or set())
        self._before[call] = {i: copies[i] for i in self._changing & copies.keys()}

    @torch.no_grad()
    def _put_back(self, tensors: Sequence[Tensor], values: dict[int, Tensor]) -> None:
        for i, ((module, name), tensor) in enumerate(zip(self._places, tensors, strict=True)):
            if getattr(module, name) is not tensor:
                setattr(module, name, tensor)
            if i in values and not torch.equal(tensor, values[i]):
                tensor.copy_(values[i])

    @contextmanager
    def repeated(self, call: int | None) -> Iterator[None]:
        """Run the block with the buffers of `call`, or of now, and leave those of now as they are.

        Other tensors take their places meanwhile: graphs may hold on to the buffers themselves.
        """
        before = {} if call is None else self._before.get(call, {})
        with _replaced([self._places[i] for i in sorted(self._changing or ())]) as stand_ins:
            for stand_in, i in zip(stand_ins, sorted(self._changing or ()), strict=True):
                if i in before:
                    stand_in.copy_(before[i])
            yield


@contextmanager
def unchanged_buffers(network: Callable[..., Any]) -> Iterator[None]:
    """Within the block the network changes copies of its buffers, unless they are very large."""
    places = _places(modules_behind(network))
    with _replaced([p for p in places if _size(getattr(*p)) <= _LARGEST]):
        yield


@contextmanager
def _replaced(places: Sequence[Place]) -> Iterator[list[Tensor]]:
    own = [getattr(module, name) for module, name in places]
    stand_ins = [tensor.detach().clone() for tensor in own]
    try:
        for (module, name), stand_in in zip(places, stand_ins, strict=True):
            setattr(module, name, stand_in)
        yield stand_ins
    finally:
        for (module, name), tensor in zip(places, own, strict=True):
            setattr(module, name, tensor)


def _places(modules: Sequence[nn.Module]) -> list[Place]:
    return [
        (module, name)
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
        if not buffer.is_meta
    ]


def _copy(tensor: Tensor) -> Tensor | None:
    with torch.no_grad():
        return tensor.detach().clone() if _size(tensor) <= _LARGEST else None


@torch.no_grad()
def _different(pairs: dict[int, tuple[Tensor, Tensor]]) -> set[int]:
    """The numbers of the pairs that differ; looked at in one go, for the sake of GPUs."""
    if not pairs:
        return set()
    device = next(iter(pairs.values()))[0].device
    found = [(a != b).any().to(device) if a.shape == b.shape else True for a, b in pairs.values()]
    same = torch.stack([torch.as_tensor(one, device=device) for one in found]).tolist()
    return {i for i, differs in zip(pairs, same, strict=True) if differs}


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
