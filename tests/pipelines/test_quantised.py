"""Networks with quantised weights: gradients pass through them, and do not reach them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.variables import Weights
from benchmarks.pipelines.cases import CASES, build, denoiser, shaping
from helpers.mixtures import relative_error


class Int8Linear(nn.Module):
    """Integers as a weight that wants no gradient, and a scale a row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        whole = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def quantise(network: nn.Module, rounded: bool) -> None:
    """Quantise the linear layers of attention; `rounded`: only round their values."""
    for module in list(network.modules()):
        for name in ("to_q", "to_k", "to_v"):
            linear = getattr(module, name, None)
            if isinstance(linear, nn.Linear):
                whole = Int8Linear(linear)
                if rounded:
                    linear.weight.data = whole.weight * whole.scale
                else:
                    setattr(module, name, whole)


def gradients(pipe: Any, name: str) -> list[Tensor]:
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(name)).requires_grad_()
    given = dict(CASES[name].arguments)
    lengths = {"max_sequence_length": 8} if "max_sequence_length" in given else {}
    encoded = model.encode(given.pop("prompt"), **lengths)
    inputs = [value.detach().requires_grad_() for value in encoded.values() if value.ndim == 3]
    embeds = dict(zip([k for k, v in encoded.items() if v.ndim == 3], inputs, strict=True))
    given |= encoded | embeds | {"generator": torch.Generator().manual_seed(7)}
    samples = model(noise=noise, **given)
    found = torch.autograd.grad(samples.sin().sum(), [noise, *inputs], allow_unused=True)
    return [gradient for gradient in found if gradient is not None]


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "FluxPipeline"])
def test_noise_and_embeddings_get_gradients_through_quantised_weights(name: str) -> None:
    found = []
    for rounded in (False, True):
        pipe = build(name)
        quantise(denoiser(pipe), rounded)
        found.append(gradients(pipe, name))
    assert len(found[0]) == len(found[1]) >= 2
    for ours, expected in zip(*found, strict=True):
        assert expected.norm() > 0
        assert relative_error(ours, expected) < 1e-5


def test_generate_through_quantised_weights() -> None:
    found = []
    for rounded in (False, True):
        pipe = build("StableDiffusionPipeline")
        quantise(pipe.unet, rounded)
        model = adj.from_pipeline(pipe)
        noise = model.noise(2, 1).requires_grad_()
        model.generate("red fox", noise, steps=3).sin().sum().backward()
        assert noise.grad is not None
        found.append(noise.grad)
    assert relative_error(*found) < 1e-5


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "FluxPipeline"])
def test_quantised_weights_cannot_be_learned_and_say_so(name: str) -> None:
    pipe = build(name)
    quantise(denoiser(pipe), rounded=False)
    with pytest.raises(adj.errors.InvalidTypeError, match=r"to_q.weight.*int8.*LoRA"):
        Weights(pipe)
    assert Weights(pipe, only="ff").tensors()
