"""Pipelines that need more of the adapter: numpy at their end, several stages, layers off."""

import diffusers
import pytest
import torch

from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build, case_for, shaping
from benchmarks.pipelines.cases.guess import guess
from benchmarks.pipelines.check import check


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionLDM3DPipeline",  # it ends in numpy
        "ShapEPipeline",  # latents only
        "UnCLIPPipeline",  # four networks, one after the other
        "KandinskyCombinedPipeline",  # pipelines inside
        "LEditsPPPipelineStableDiffusion",  # inverted before
        "StableDiffusionPipelineSafe",  # guessed
    ],
)
def test_gradients_equal_full_backpropagation(name: str) -> None:
    found = check(name, "")
    assert found["status"] == "exact", found["why"]
    assert found["errors"]
    shape = case_for(name).shape
    assert shape is None or found["sample"] == list(shape)


def test_arguments_stay_as_they_were() -> None:
    name = "KandinskyV22InpaintPipeline"  # its own code writes into the mask
    pipe, given = build(name), case_for(name).arguments
    given = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    model = AnyPipeline(pipe)
    with torch.no_grad():
        model(noise=model.noise(2, 1, **shaping(name)), **given)
    tensors = [key for key, value in given.items() if isinstance(value, torch.Tensor)]
    assert "mask_image" in tensors
    for key in tensors:
        assert torch.equal(given[key], case_for(name).arguments[key])


def test_layers_that_a_pipeline_switches_off_are_left_as_stock_leaves_them() -> None:
    name = "StableDiffusionGLIGENPipeline"
    states = []
    for differentiate in (False, True):
        pipe = build(name)
        given = dict(CASES[name].arguments)
        if differentiate:
            model = AnyPipeline(pipe)
            noise = model.noise(2, 1, **shaping(name)).requires_grad_()
            model(noise=noise, **given).sum().backward()
            assert noise.grad is not None
        else:
            pipe(**given, output_type="latent")
        layers = {key: m for key, m in pipe.unet.named_modules() if hasattr(m, "enabled")}
        states.append({key: layer.enabled for key, layer in layers.items()})
    assert states[0] == states[1]
    assert states[0]


def test_a_guess_gives_arguments_and_networks_by_name() -> None:
    case = guess(diffusers.StableDiffusionXLInstructPix2PixPipeline)
    assert case.arguments.keys() >= {"prompt", "image", "height", "num_inference_steps"}
    assert "mask_image" not in case.arguments
    assert case.networks["unet"]["in_channels"] == 8
    assert case.networks["unet"]["addition_embed_type"] == "text_time"
