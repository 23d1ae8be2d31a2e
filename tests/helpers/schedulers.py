"""A scheduler of diffusers whose package is not installed everywhere."""

import importlib
import sys
import types
import unittest.mock
from typing import Any

import diffusers
import torch


class BrownianPath:
    """Stands in for `torchsde.BrownianInterval`, which diffusers needs for one scheduler alone:
    increments that depend on the seed.
    """

    def __init__(
        self,
        t0: float,
        t1: float,
        size: torch.Size,
        dtype: torch.dtype,
        device: torch.device,
        entropy: int,
        **_: Any,
    ) -> None:
        self.start, self.step = float(t0), float(t1 - t0) / 256
        draws = torch.randn(257, *size, generator=torch.Generator().manual_seed(entropy))
        self.path = (draws * self.step**0.5).cumsum(0).to(device, dtype)

    def __call__(self, t0: float, t1: float) -> torch.Tensor:
        first, last = (self.path[round((float(t) - self.start) / self.step)] for t in (t0, t1))
        return last - first


def scheduler_with_torchsde() -> type:
    """diffusers' DPMSolverSDEScheduler, with the stand-in where torchsde is not installed."""
    if importlib.util.find_spec("torchsde") is None:
        stand_in = types.ModuleType("torchsde")
        stand_in.BrownianInterval = BrownianPath  # type: ignore[attr-defined]
        with unittest.mock.patch.dict(sys.modules, {"torchsde": stand_in}):
            return importlib.import_module(
                "diffusers.schedulers.scheduling_dpmsolver_sde"
            ).DPMSolverSDEScheduler
    return diffusers.DPMSolverSDEScheduler
