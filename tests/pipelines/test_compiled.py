"""Compiled networks of a pipeline: `torch.compile(network)` and `network.compile()`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build, denoiser, shaping
from helpers.mixtures import relative_error


def gradients(pipe: Any, name: str, weight: Tensor) -> tuple[Tensor, ...]:
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(name)).requires_grad_()
    given = CASES[name].arguments | {"generator": torch.Generator().manual_seed(7)}
    return torch.autograd.grad(model(noise=noise, **given).sin().sum(), [noise, weight])


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "FluxPipeline"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_compiled_networks_give_the_same_gradients(name: str, wrapped: bool) -> None:
    torch.compiler.reset()
    pipe = build(name)
    network = denoiser(pipe)
    weight = next(p for p in network.parameters() if p.ndim > 1).requires_grad_()
    expected = gradients(pipe, name, weight)
    if wrapped:
        part = "unet" if name.startswith("Stable") else "transformer"
        setattr(pipe, part, torch.compile(network, backend="eager"))
    else:
        network.compile(backend="eager")
    for ours, full in zip(gradients(pipe, name, weight), expected, strict=True):
        assert full.norm() > 0
        assert relative_error(ours, full) < 1e-5
