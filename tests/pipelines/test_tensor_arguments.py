"""Gradients of tensors that are handed to a pipeline: pictures, embeddings, latents."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build
from benchmarks.pipelines.parts import WIDTH
from benchmarks.pipelines.stock import stock_samples
from helpers.mixtures import relative_error


def loss(samples: Tensor) -> Tensor:
    return (samples.clamp(0, 1) * torch.linspace(-1, 1, samples.numel()).view_as(samples)).sum()


def both(pipe: Any, inputs: list[Tensor], noise: Tensor | None, **arguments: Any) -> None:
    """Ours and full backpropagation of the stock call give the same, and not zero."""
    found = []
    for samples in (
        AnyPipeline(pipe)(noise=noise, **arguments, generator=torch.Generator().manual_seed(1)),
        stock_samples(pipe, arguments | {"generator": torch.Generator().manual_seed(1)}, noise),
    ):
        found.append(torch.autograd.grad(loss(samples), inputs))
    for ours, theirs in zip(*found, strict=True):
        assert theirs.norm() > 0
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
        "StableDiffusionControlNetPipeline",
        "StableDiffusionAdapterPipeline",
    ],
)
def test_pictures_that_are_handed_over(name: str) -> None:
    given = dict(CASES[name].arguments)
    if "strength" in given:
        given["strength"] = 0.7  # at 1 nothing of the picture is left
    image = given.pop("image").clone().requires_grad_()
    both(build(name), [image], None, image=image, **given)


def test_embeddings_of_an_ip_adapter() -> None:
    pipe = build("StableDiffusionPipeline")
    _add_ip_adapter(pipe.unet)
    pipe.set_ip_adapter_scale(0.7)
    embeds = torch.randn(4, 1, WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()
    noise = AnyPipeline(pipe).noise(2, 1).requires_grad_()
    given = CASES["StableDiffusionPipeline"].arguments
    both(pipe, [noise, embeds], noise, ip_adapter_image_embeds=[embeds], **given)


def test_latents_in_place_of_noise() -> None:
    name = "StableDiffusionXLPipeline"
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    both(build(name), [latents], None, latents=latents, **CASES[name].arguments)


def _add_ip_adapter(unet: Any, tokens: int = 4) -> None:
    """Random weights of an IP-Adapter, in the names of its files."""
    torch.manual_seed(0)
    layers: dict[str, Tensor] = {}
    cross = [name for name in unet.attn_processors if "attn2" in name]
    for number, name in enumerate(cross):
        width = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for part in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * number + 1}.{part}.weight"] = torch.randn(width, WIDTH) / 10
    projection = {
        "proj.weight": torch.randn(tokens * WIDTH, WIDTH) / 10,
        "proj.bias": torch.zeros(tokens * WIDTH),
        "norm.weight": torch.ones(WIDTH),
        "norm.bias": torch.zeros(WIDTH),
    }
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": layers}])
    unet.requires_grad_(False)
