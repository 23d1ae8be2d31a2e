"""Repeat the random numbers of a network's calls (dropout above all) and its training mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Draws:
    """The states of the random number generators before the calls that drew from them.

    One state takes a few kilobytes.

    Args:
        device: where the network draws, besides the CPU.
        module: the network, if it is a module. Repeated calls find it in the training or evaluation
            mode of now.

    Attributes:
        states: by call, the states of the generators to repeat it from.

    """

    def __init__(self, device: torch.device, module: nn.Module | None = None) -> None:
        self._modes = {} if module is None else {part: part.training for part in module.modules()}
        self._devices = [device] if device.type == "cuda" else []
        self.states: dict[int, list[Tensor]] = {}

    @contextmanager
    def recorded(self, call: int) -> Iterator[None]:
        """Remember the state of the generators if the block draws from them.

        If the block fails, they are put back.
        """
        before = self._now()
        try:
            yield
        except BaseException:
            self._restore(before)
            raise
        if not all(torch.equal(a, b) for a, b in zip(before, self._now(), strict=True)):
            self.states[call] = before

    @contextmanager
    def repeated(self, call: int | None) -> Iterator[None]:
        """Run the block with the draws of `call`, and leave the generators as they are."""
        with self._mode():
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
