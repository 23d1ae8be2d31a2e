"""Modular pipelines: samples and gradients are those of their own blocks."""

import sys
from contextlib import ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import diffusers
import pytest
import torch
from torch import Tensor

import adjointdpm as adj
from adjointdpm.errors import InvalidInputError, UnsupportedError
from adjointdpm.pipelines.own_call.modular import as_pipeline
from benchmarks.pipelines.cases import build, case_for
from benchmarks.pipelines.stock import _differentiable as without_decorators
from helpers.mixtures import relative_error

KINDS = {
    "StableDiffusionXLAutoBlocks": "StableDiffusionXLPipeline",
    "FluxAutoBlocks": "FluxPipeline",
    "ZImageAutoBlocks": "ZImagePipeline",
}


def modular(blocks: str) -> Any:
    """The blocks with the tiny parts of the usual pipeline."""
    pipe = getattr(diffusers, blocks)().init_pipeline()
    parts = build(KINDS[blocks]).components
    pipe.update_components(**{k: v for k, v in parts.items() if k in pipe._component_specs})
    return pipe


def arguments(blocks: str, pipe: Any) -> dict[str, Any]:
    names = {given.name for given in pipe.blocks.inputs}
    given = {k: v for k, v in case_for(KINDS[blocks]).arguments.items() if k in names}
    return given | {"height": 16, "width": 16}


def all_blocks(block: Any) -> list[Any]:
    inner = (getattr(block, "sub_blocks", None) or {}).values()
    return [block, *(found for b in inner for found in all_blocks(b))]


def stock(pipe: Any, noise: Tensor, given: dict[str, Any]) -> Tensor:
    """The pipeline's own call, with nothing changed but what switches gradients off."""
    answered: list[bool] = []
    with ExitStack() as stack:
        for cls in {type(block) for block in all_blocks(pipe._blocks)}:
            stack.enter_context(without_decorators(cls))
        for name, module in list(sys.modules.items()):
            if not name.startswith("diffusers.modular_pipelines") or not hasattr(
                module, "randn_tensor"
            ):
                continue
            original = module.randn_tensor

            def draw(shape, *args, original=original, **kwargs):
                if tuple(shape) == tuple(noise.shape) and not answered:
                    answered.append(True)
                    return noise.clone()
                return original(shape, *args, **kwargs)

            stack.enter_context(patch.object(module, "randn_tensor", draw))
        stack.enter_context(patch.object(torch, "no_grad", nullcontext))
        return pipe(**given, output_type="pt", output="images")


def loss(samples: Tensor) -> Tensor:
    return (samples.clamp(0, 1) * torch.linspace(-1, 1, samples.numel()).view_as(samples)).sum()


@pytest.mark.parametrize("blocks", KINDS)
def test_samples_and_gradients_are_those_of_the_blocks(blocks: str) -> None:
    pipe = modular(blocks)
    network = getattr(pipe, "unet", None) or pipe.transformer
    weight = max((p for p in network.parameters() if p.ndim > 1), key=torch.Tensor.numel)
    weight.requires_grad_()
    given = arguments(blocks, pipe)
    before = {key: id(value) for key, value in vars(pipe).items()}
    model = adj.from_pipeline(pipe)
    noise = model.noise(2, 1, height=16, width=16).requires_grad_()
    calls: list[int] = []
    handle = network.register_forward_hook(lambda *_: calls.append(1))
    samples = model(noise=noise, **given)
    forward = len(calls)
    ours = torch.autograd.grad(loss(samples), [noise, weight])
    assert 0 < forward < len(calls) <= 2 * forward
    handle.remove()
    expected = stock(pipe, noise, given)
    assert (samples.clamp(0, 1) - expected).abs().max() < 1e-5
    theirs = torch.autograd.grad(loss(expected), [noise, weight])
    for mine, full in zip(ours, theirs, strict=True):
        assert full.norm() > 0
        assert relative_error(mine, full) < 1e-5
    assert {key: id(value) for key, value in vars(pipe).items()} == before


def test_an_argument_that_no_block_takes_has_the_closest_names() -> None:
    model = adj.from_pipeline(modular("FluxAutoBlocks"))
    with pytest.raises(InvalidInputError, match="'hight'; the closest are height"):
        model(prompt="a fox", hight=16)


def test_blocks_that_do_not_decode_are_refused() -> None:
    pipe = modular("FluxAutoBlocks")
    text = pipe.blocks.sub_blocks["text_encoder"].init_pipeline()
    with pytest.raises(UnsupportedError, match="none of images"):
        as_pipeline(text)
