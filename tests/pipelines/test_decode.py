"""`decode` makes of latents what the pipeline itself makes of them."""

import pytest
import torch

from adjointdpm.errors import ShapeError
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import build, shaping
from benchmarks.pipelines.check import arguments_of
from helpers.mixtures import relative_error


@pytest.mark.parametrize(
    "name",
    [
        *("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"),
        *("FluxPipeline", "QwenImagePipeline", "SanaPipeline", "PixArtSigmaPipeline"),
        *("ZImagePipeline", "WanPipeline", "StableAudioPipeline"),
        *("LatentConsistencyModelPipeline", "StableDiffusionImg2ImgPipeline"),
    ],
)
def test_latents_are_decoded_as_in_the_pipelines_own_call(name: str) -> None:
    pipe = build(name).to(torch.float64)
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(name))
    with torch.no_grad():
        latents = model(noise=noise, output="latent", **arguments_of(name, pipe))
        expected = model(noise=noise, **arguments_of(name, pipe))
    calls: list[int] = []
    network = getattr(pipe, "unet", None) or pipe.transformer
    network.register_forward_hook(lambda *_: calls.append(1))
    latents.requires_grad_()
    given = shaping(name)
    if "image" in given:
        given["image"] = given["image"].expand(2, -1, -1, -1)
    found = model.decode(latents, **given)
    assert (found - expected).abs().max() < 1e-5
    assert len(calls) <= 3  # one step
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    (gradient,) = torch.autograd.grad((weights * found).sum(), latents)
    step = 1e-4 * gradient / gradient.square().mean().sqrt()
    with torch.no_grad():
        higher = (weights * model.decode(latents + step, **given)).sum()
        lower = (weights * model.decode(latents - step, **given)).sum()
    change = (gradient.double() * step).sum()
    assert relative_error((higher - lower) / 2, change) < 5e-3  # parts of Sana compute in float32


def test_latents_of_another_shape_are_refused() -> None:
    model = AnyPipeline(build("StableDiffusionXLPipeline"))
    with pytest.raises(ShapeError, match=r"latents has shape \(2, 4, 4, 4\).*\(2, 4, 8, 8\)"):
        model.decode(torch.zeros(2, 4, 4, 4), height=16, width=16)


def test_pictures_are_their_own_latents_where_there_is_no_decoder() -> None:
    samples = torch.rand(2, 3, 8, 8)
    decoded = AnyPipeline(build("DDPMPipeline")).decode(samples)
    assert torch.allclose(decoded, samples / 2 + 0.5)
