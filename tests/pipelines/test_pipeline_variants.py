"""What users add to a pipeline: several ControlNets or adapters, FreeU, IP-Adapter, schedulers."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build, for_one_sample
from benchmarks.pipelines.cases.case import IMAGE
from benchmarks.pipelines.check import clamped_as, largest_weights, loss
from benchmarks.pipelines.parts import component
from benchmarks.pipelines.stock import stock_samples
from helpers.mixtures import relative_error

FLIPPED = IMAGE.flip(-1)


def two_controlnets(pipe: Any) -> dict[str, Any]:
    nets = [component(diffusers.ControlNetModel, seed) for seed in (1, 2)]
    pipe.controlnet = diffusers.MultiControlNetModel(nets).requires_grad_(False)
    scales = {"controlnet_conditioning_scale": [0.5, 0.8], "control_guidance_end": [1.0, 0.5]}
    return scales | {"image": [IMAGE, FLIPPED]}


def two_adapters(pipe: Any) -> dict[str, Any]:
    adapters = [component(diffusers.T2IAdapter, seed) for seed in (1, 2)]
    pipe.adapter = diffusers.MultiAdapter(adapters).requires_grad_(False)
    return {"image": [IMAGE, FLIPPED], "adapter_conditioning_scale": [0.5, 0.8]}


def free_u(pipe: Any) -> dict[str, Any]:
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return {}


def guess_mode(pipe: Any) -> dict[str, Any]:
    return {"guess_mode": True}


def adaptive_guidance(pipe: Any) -> dict[str, Any]:
    return {"pag_adaptive_scale": 0.01, "guidance_rescale": 0.5}


def multistep(pipe: Any) -> dict[str, Any]:
    pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    return {}


def ancestral(pipe: Any) -> dict[str, Any]:
    pipe.scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)
    return {}


def custom_timesteps(pipe: Any) -> dict[str, Any]:
    pipe.scheduler = diffusers.DDPMScheduler(clip_sample=False)
    return {"timesteps": [900, 500, 100], "num_inference_steps": None}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("StableDiffusionControlNetPipeline", two_controlnets),
        ("StableDiffusionControlNetPipeline", guess_mode),
        ("StableDiffusionAdapterPipeline", two_adapters),
        ("StableDiffusionPipeline", free_u),
        ("StableDiffusionXLPipeline", multistep),
        ("StableDiffusionXLPipeline", ancestral),
        ("StableDiffusionXLPipeline", custom_timesteps),
        ("StableDiffusionPAGPipeline", adaptive_guidance),
    ],
)
def test_gradients_equal_full_backpropagation(
    name: str, change: Callable[[Any], dict[str, Any]]
) -> None:
    pipe = build(name)
    given = {**CASES[name].arguments, **change(pipe)}
    model = AnyPipeline(pipe)
    weights = [x for tensors in largest_weights(pipe).values() for x in tensors]
    inputs: list[Tensor] = [model.noise(2, 1, **for_one_sample(given)), *weights]
    for tensor in inputs:
        tensor.requires_grad_()
    torch.manual_seed(3)
    samples = model(noise=inputs[0], **given, generator=torch.Generator().manual_seed(7))
    again = given | {"generator": torch.Generator().manual_seed(7)}
    expected = stock_samples(pipe, again, inputs[0])
    assert (clamped_as(samples, expected) - expected).abs().max() < 1e-4
    ours = torch.autograd.grad(loss(clamped_as(samples, expected)), inputs)
    for mine, full in zip(ours, torch.autograd.grad(loss(expected), inputs), strict=True):
        assert full.norm() > 0
        assert relative_error(mine, full) < 1e-5
