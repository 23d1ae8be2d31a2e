"""The random numbers that a network draws, dropout above all, and the mode that it does so in, to
repeat its calls with.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Draws:
    """States of the random number generators before the calls that drew from them, a few kilobytes
    each.

    Args:
        device: where it draws, besides the CPU.
        module: the network, if it is one: repeated calls find it in training or evaluation mode as
            it is now.

    Attributes:
        states: by call, the states to repeat it from.

    """

    def __init__(self, device: torch.device, module: nn.Module | None = None) -> None:
        self._modes = {} if module is None else {part: part.training for part in module.modules()}
        self._devices = [device] if device.type == "cuda" else []
        self.states: dict[int, list[Tensor]] = {}

    @contextmanager
    def recorded(self, call: int) -> Iterator[None]:
        """Remember where the generators stand, if they move within the block; if that fails, they
        are where they were.
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
