"""What pipelines change in their networks while they run, kept so that it can be put back."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

Switches = tuple[tuple[Any, str, Any], ...]  # a module, the name of an attribute, its value
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
        self._switches: list[tuple[Any, str]] = []
        self._scales: list[dict[str, Any]] = []  # of LoRAs, by adapter
        for part in network.modules():
            own = vars(part)
            for name in ("processor", "enabled"):
                if name in own or name in own["_modules"]:
                    self._switches.append((part, name))
            if isinstance(own.get("scaling"), dict):
                self._scales.append(own["scaling"])

    def now(self) -> "NetworkState":
        """Their state."""
        return NetworkState(
            tuple((part, name, getattr(part, name)) for part, name in self._switches),
            tuple((scales, dict(scales)) for scales in self._scales),
        )


class NetworkState:
    """The attention processors of a network, what is switched off in it, and its LoRA scales.

    Some pipelines swap processors around their loop (PAG), switch layers off in it (GLIGEN), or
    change the scales around a call.
    """

    def __init__(self, switches: Switches, scales: Scales) -> None:
        self._switches, self._scales = switches, scales

    def identities(self) -> tuple[int, ...]:
        """What tells the parts' values from others."""
        return tuple(id(value) for *_, value in self._switches)

    def put_back(self) -> tuple[Switches, Scales]:
        """Set them again; returns those that were others."""
        now = [(part, name, getattr(part, name)) for part, name, _ in self._switches]
        changed = [
            new for new, old in zip(now, self._switches, strict=True) if new[2] is not old[2]
        ]
        others = [(scales, dict(scales)) for scales, old in self._scales if scales != old]
        _set(self._switches if changed else (), self._scales if others else ())
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


def _set(switches: Switches, scales: Scales) -> None:
    for part, name, value in switches:
        setattr(part, name, value)
    for scale, values in scales:
        scale.clear()
        scale.update(values)
