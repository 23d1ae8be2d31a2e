"""Repeat a network's calls: random numbers (dropout above all), buffers and training mode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from adjointdpm.engine.gradients.autograd.kept_buffers import KeptBuffers
from adjointdpm.engine.gradients.autograd.network_modules import modules_behind


class Draws:
    """The states of the random number generators before the calls that drew from them.

    One state takes a few kilobytes. Buffers that the calls change are kept as well.

    Args:
        device: where the network draws, besides the CPU.
        network: the module, or the function around it. Repeated calls find its modules in the
            training or evaluation mode of now.

    Attributes:
        states: by call, the states of the generators to repeat it from.

    """

    def __init__(self, device: torch.device, network: Callable[..., Any] | None = None) -> None:
        parts = [] if network is None else modules_behind(network)
        self._modes = {part: part.training for part in parts}
        self._buffers = KeptBuffers(parts)
        self._devices = [device] if device.type == "cuda" else []
        self.states: dict[int, list[Tensor]] = {}

    @contextmanager
    def recorded(self, call: int) -> Iterator[None]:
        """Remember the state of the generators if the block draws from them, and the buffers.

        If the block fails, the generators are put back.
        """
        before = self._now()
        try:
            with self._buffers.recorded(call):
                yield
        except BaseException:
            self._restore(before)
            raise
        if not all(torch.equal(a, b) for a, b in zip(before, self._now(), strict=True)):
            self.states[call] = before

    @contextmanager
    def repeated(self, call: int | None) -> Iterator[None]:
        """Run the block with the draws and buffers of `call`; those of now stay as they are."""
        with self._mode(), self._buffers.repeated(call):
            if call not in self.states:
                yield
                return
            with torch.random.fork_rng(devices=self._devices):
                self._restore(self.states[call])
                yield

    @contextmanager
    def _mode(self) -> Iterator[None]:
        changed = [part for part, training in self._modes.items() if part.training != training]
        for part in changed:
            part.training = not part.training
        try:
            yield
        finally:
            for part in changed:
                part.training = not part.training

    def _now(self) -> list[Tensor]:
        return [
            torch.get_rng_state(),
            *(torch.cuda.get_rng_state(device) for device in self._devices),
        ]

    def _restore(self, states: list[Tensor]) -> None:
        cpu, *cuda = states
        torch.set_rng_state(cpu)
        for device, state in zip(self._devices, cuda, strict=True):
            torch.cuda.set_rng_state(state, device)
