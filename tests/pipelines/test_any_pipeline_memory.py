"""Bytes held for the backward pass: a further step adds the states and nothing that is larger."""

from typing import Any

import pytest
import torch
from torch import Tensor

import adjointdpm as adj
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters
from benchmarks.live_bytes import LiveBytes
from benchmarks.pipelines.cases import CASES, build, denoiser, shaping
from benchmarks.pipelines.held_bytes import growth_per_step, held_bytes

# States that one step adds: those that the network is called with (two with guidance in one batch,
# three with PAG), and what the pipeline's own arithmetic needs in the backward pass.
STATES: dict[str, float] = {
    "StableDiffusionPipeline": 5,  # guidance_rescale: a standard deviation of two predictions
    "StableDiffusionXLPipeline": 2,
    "StableDiffusionImg2ImgPipeline": 2,
    "StableDiffusionInpaintPipeline": 2.25,  # and the mask, of one channel of four
    "StableDiffusionControlNetPipeline": 4,  # a copy for either network, and no residuals
    "StableDiffusionAdapterPipeline": 2,
    "StableDiffusionPAGPipeline": 3,
    "LatentConsistencyModelPipeline": 1,
    "AnimateDiffPipeline": 2,
    "DDPMPipeline": 1,
    "StableDiffusion3Pipeline": 2,
    "FluxPipeline": 1,
    "Flux2KleinPipeline": 1,
    "ChromaPipeline": 1,
    "QwenImagePipeline": 4.25,  # guidance that keeps norms
    "ZImagePipeline": 2,
    "AuraFlowPipeline": 2,
    "Lumina2Pipeline": 4,  # guidance that keeps norms
    "PixArtSigmaPipeline": 2,
    "SanaPipeline": 2,
    "DiTPipeline": 2,
    "WanPipeline": 1,  # two calls, with one and the same state
    "CogVideoXPipeline": 2,
    "LTXPipeline": 2,
    "StableAudioPipeline": 2,
}
CONSTANTS = 160  # bytes a step: timesteps, coefficients and checksums


def arguments(name: str, pipe: Any) -> dict[str, Any]:
    given = dict(CASES[name].arguments)
    if "generator" in call_parameters(pipe):
        given["generator"] = torch.Generator().manual_seed(7)
    return given


def largest_weight(pipe: Any) -> Tensor:
    return max((p for p in denoiser(pipe).parameters() if p.ndim > 1), key=Tensor.numel)


def bytes_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@pytest.mark.slow
@pytest.mark.parametrize("name", STATES)
def test_a_further_step_holds_its_states_and_little_more(name: str) -> None:
    pipe = build(name)
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(name)).requires_grad_()
    growth = growth_per_step(model, noise, arguments(name, pipe))
    state = bytes_of(noise)
    assert state * 0.9 < growth < STATES[name] * state + CONSTANTS


def test_full_backpropagation_holds_every_graph() -> None:
    """So that the figures above could not be small by a mistake in counting."""
    pipe = build("FluxPipeline")
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping("FluxPipeline")).requires_grad_()
    given = arguments("FluxPipeline", pipe)
    growth = growth_per_step(model, noise, given | {"gradient": adj.Backprop()})
    assert growth > 20 * bytes_of(noise)


def test_bytes_held_are_those_of_the_tensors_that_live() -> None:
    kept: list[Tensor] = []

    def run() -> Tensor:
        kept.append(torch.zeros(1000))
        gone = torch.zeros(500) + 1
        x = torch.ones(100, requires_grad=True)
        return (x * gone[:100]).exp()  # keeps `gone`, x, the exponential, but not the product

    assert held_bytes(run) == 4 * (1000 + 500 + 100 + 100)


@pytest.mark.parametrize(
    "name", ["StableDiffusionXLPipeline", "FluxPipeline", "StableDiffusionControlNetPipeline"]
)
def test_networks_that_checkpoint_their_own_blocks_give_the_same_gradient_for_less(name) -> None:
    pipe = build(name)
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(name)).requires_grad_()
    weight = largest_weight(pipe).requires_grad_()
    found, peaks = [], []
    for inner in (False, True):
        for part in (pipe.vae, denoiser(pipe)) if inner else ():
            part.enable_gradient_checkpointing()
        torch.manual_seed(3)
        with LiveBytes() as live:
            samples = model(noise=noise, **arguments(name, pipe))
            found.append(torch.autograd.grad(samples.square().mean(), [noise, weight]))
        peaks.append(live.peak)
    assert all(torch.equal(plain, inner) for plain, inner in zip(*found, strict=True))
    assert peaks[1] < 0.7 * peaks[0]
