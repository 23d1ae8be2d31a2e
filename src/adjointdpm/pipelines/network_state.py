"""What pipelines change in their networks while they run, kept so that it can be put back."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

Attributes = tuple[tuple[Any, str, Any], ...]  # part, name and value
Scales = tuple[tuple[dict[str, Any], dict[str, Any]], ...]

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_new_lock = threading.Lock()


def lock_of(network: nn.Module) -> threading.RLock:
    """The lock that a network runs under: hooks and pipelines change it around its calls."""
    with _new_lock:
        if network not in _locks:
            _locks[network] = threading.RLock()
        return _locks[network]


class ChangingParts:
    """The parts of a network that pipelines change, listed once: that is milliseconds of search."""

    def __init__(self, network: nn.Module) -> None:
        self._attributes: list[tuple[Any, str]] = []
        self._scales: list[dict[str, Any]] = []  # of LoRAs, by adapter
        for part in network.modules():
            own = vars(part)
            if "processor" in own or "processor" in own["_modules"]:
                self._attributes.append((part, "processor"))
            if isinstance(own.get("enabled"), bool):
                self._attributes.append((part, "enabled"))
            if isinstance(own.get("scaling"), dict):
                self._scales.append(own["scaling"])

    def now(self) -> "NetworkState":
        """Their state."""
        return NetworkState(
            tuple((part, name, getattr(part, name)) for part, name in self._attributes),
            tuple((scales, dict(scales)) for scales in self._scales),
        )


class NetworkState:
    """The attention processors, LoRA scales and switches of a network at some time.

    Some pipelines swap the processors around their loop (PAG), change the scales around a call, or
    switch layers off in the loop (GLIGEN).
    """

    def __init__(self, attributes: Attributes, scales: Scales) -> None:
        self._attributes, self._scales = attributes, scales

    def put_back(self) -> tuple[Attributes, Scales]:
        """Set them again; returns those that were others."""
        now = [(part, name, getattr(part, name)) for part, name, _ in self._attributes]
        pairs = zip(now, self._attributes, strict=True)
        changed = [new for new, old in pairs if new[2] is not old[2]]
        others = [(scales, dict(scales)) for scales, old in self._scales if scales != old]
        _set(self._attributes if changed else (), self._scales if others else ())
        return tuple(changed), tuple(others)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within the block they are as they were."""
        changed = self.put_back()
        try:
            yield
        finally:
            _set(*changed)


@contextmanager
def alone_with(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block no other thread runs or changes these networks through this library."""
    with ExitStack() as locks:
        for network in sorted(networks, key=id):  # one order for all threads
            locks.enter_context(lock_of(network))
        yield


@contextmanager
def left_as_found(networks: Sequence[nn.Module]) -> Iterator[None]:
    """After the block, networks have processors, switches, LoRA scales and modes as before."""
    with alone_with(networks):
        states = [ChangingParts(network).now() for network in networks]
        modes = [(p, p.training) for network in networks for p in network.modules()]
    try:
        yield
    finally:
        with alone_with(networks):
            for state in states:
                state.put_back()
            for part, training in modes:
                part.training = training


def _set(attributes: Attributes, scales: Scales) -> None:
    for part, name, value in attributes:
        setattr(part, name, value)
    for scale, values in scales:
        scale.clear()
        scale.update(values)
