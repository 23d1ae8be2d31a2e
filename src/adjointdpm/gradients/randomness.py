"""The random numbers that a network draws, dropout above all: remembered by call, so that a call can be repeated with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Draws:
    """States of the random number generators before the calls that drew from them, a few kilobytes each.

    Attributes:
        states: by call, the states to repeat it from.

    """

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self.states: dict[int, list[Tensor]] = {}

    @contextmanager
    def recorded(self, call: int) -> Iterator[None]:
        """Remember where the generators stand, if they move within the block; if that fails, they are where they were."""
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
        if call not in self.states:
            yield
            return
        with torch.random.fork_rng(devices=self._devices):
            self._restore(self.states[call])
            yield

    def _now(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]

    def _restore(self, states: list[Tensor]) -> None:
        cpu, *cuda = states
        torch.set_rng_state(cpu)
        for device, state in zip(self._devices, cuda, strict=True):
            torch.cuda.set_rng_state(state, device)
