"""What pipelines change in their networks while they run, kept so that it can be put back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

Processors = tuple[tuple[nn.Module, Any], ...]
Scales = tuple[tuple[dict[str, Any], dict[str, Any]], ...]

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_new_lock = threading.Lock()


def lock_of(network: nn.Module) -> threading.RLock:
    """The lock that a network runs under: hooks and pipelines change it around its calls."""
    with _new_lock:
        if network not in _locks:
            _locks[network] = threading.RLock()
        return _locks[network]


class NetworkState:
    """The attention processors and LoRA scales of a network as they are now.

    Some pipelines (PAG) swap the processors around their loop, and change the scales around a call.
    """

    def __init__(self, network: nn.Module) -> None:
        processors, scales = [], []
        for part in network.modules():
            own = vars(part)
            found = own.get("processor", own["_modules"].get("processor"))
            if found is not None:
                processors.append((part, found))
            scaling = own.get("scaling")
            if isinstance(scaling, dict):  # of peft: by adapter
                scales.append((scaling, dict(scaling)))
        self._processors: Processors = tuple(processors)
        self._scales: Scales = tuple(scales)

    def put_back(self) -> tuple[Processors, Scales]:
        """Set them again; returns those that were others."""
        changed = [(part, part.processor) for part, old in self._processors]
        changed = [
            (part, now)
            for (part, now), (_, old) in zip(changed, self._processors, strict=True)
            if now is not old
        ]
        others = [(scaling, dict(scaling)) for scaling, old in self._scales if scaling != old]
        _set(self._processors if changed else (), self._scales if others else ())
        return tuple(changed), tuple(others)

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within the block they are as they were."""
        changed = self.put_back()
        try:
            yield
        finally:
            _set(*changed)


class PipelineState:
    """What a call must leave in the networks of a pipeline as it found it.

    Args:
        networks: of the pipeline.

    """

    def __init__(self, networks: list[nn.Module]) -> None:
        self._networks = [NetworkState(network) for network in networks]
        self._modes = [(p, p.training) for network in networks for p in network.modules()]

    def put_back(self) -> None:
        """Set processors, LoRA scales and training modes again."""
        for network in self._networks:
            network.put_back()
        for part, training in self._modes:
            part.training = training


def _set(processors: Processors, scales: Scales) -> None:
    for part, processor in processors:
        part.processor = processor
    for scaling, values in scales:
        scaling.clear()
        scaling.update(values)
