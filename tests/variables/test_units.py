"""What counts as a change of size 1, for each kind of variable."""

from pathlib import Path

import pytest
import torch

from adjointdpm.pipelines import from_pipeline
from adjointdpm.pipelines.stable_diffusion import StableDiffusion
from adjointdpm.variables import (
    Example,
    Joint,
    LoRA,
    Noise,
    PromptEmbedding,
    TokenEmbedding,
    Weights,
)
from adjointdpm.variables.base import rms
from helpers.tiny_pipelines import tiny_pipeline


@pytest.fixture
def model(tmp_path: Path) -> StableDiffusion:
    return from_pipeline(tiny_pipeline(tmp_path))


def test_each_noise_has_the_unit_of_a_standard_normal(model: StableDiffusion) -> None:
    noise = Noise([Example("red fox", 0), Example("owl", 1)], model.noise(2, 0))
    assert torch.equal(noise.units()["noise"], torch.ones(2, 1, 1, 1))


def test_a_vector_has_the_unit_of_a_typical_word(model: StableDiffusion) -> None:
    token = TokenEmbedding(model.pipe, "<new>", "fox", vectors=3)
    table = model.pipe.text_encoder.get_input_embeddings().weight
    unit = token.units()["vectors"]
    assert unit.shape == (3, 1)
    assert unit[0].item() == pytest.approx(table.square().mean(1).sqrt().median().item())


def test_weights_have_the_unit_of_their_own_size(model: StableDiffusion) -> None:
    weights = Weights(model.pipe)
    with weights:
        units = weights.units()
    for name, value in weights.tensors().items():
        assert units[name].item() == pytest.approx(rms(value) or 1.0)
        assert units[name].ndim == value.ndim


@pytest.mark.parametrize(("rank", "alpha"), [(2, None), (4, 1.0)])
def test_an_adapter_of_size_1_changes_weights_by_their_own_size(
    model: StableDiffusion, rank: int, alpha: float | None
) -> None:
    lora = LoRA(model.pipe, rank, alpha)
    units, generator = lora.units(), torch.Generator().manual_seed(0)
    pairs = [*zip(*[iter(lora.tensors().items())] * 2, strict=True)]
    ratios = []
    for (_, a), (name, b) in pairs:
        network = dict(model.pipe.unet.named_modules())
        weight = network[name.removesuffix(".lora_B.weight")].weight
        drawn = units[name] * torch.randn(b.shape, generator=generator)
        ratios.append(rms((alpha or rank) / rank * drawn @ a) / rms(weight))
    assert 0.8 < sum(ratios) / len(ratios) < 1.2


def test_an_encoding_and_joint_variables(model: StableDiffusion) -> None:
    embedding = PromptEmbedding(model, "red fox")
    (unit,) = embedding.units().values()
    (start,) = embedding.tensors().values()
    assert unit.shape == (1, 1, 1)
    assert 0.3 * rms(start) < unit.item() < 3 * rms(start)
    noise = Noise([Example("red fox", 0)], model.noise(1, 0))
    joint = Joint([noise, embedding])
    assert joint.units().keys() == joint.tensors().keys()
