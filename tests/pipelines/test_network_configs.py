"""Configs of a model's networks that say what cannot be: refused with file and field, unbuilt."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import adjointdpm as adj
from adjointdpm.errors import InvalidInputError, ModelError
from adjointdpm.pipelines import network_configs
from adjointdpm.pipelines.loading import BUNDLED
from benchmarks.pipelines.cases import CASES, build

NAN = float("nan")


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(BUNDLED["tiny"], tmp_path / "model"))


def edit(folder: Path, part: str, **changes: object) -> None:
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("part", "field", "value", "says"),
    [
        ("unet", "sample_size", -64, "negative"),
        ("unet", "sample_size", "x", "a number"),
        ("unet", "sample_size", NAN, "finite"),
        ("unet", "sample_size", 2.5, "whole"),
        ("unet", "block_out_channels", [48, NAN, 96], "finite"),
        ("unet", "block_out_channels", [48, -96, 96], "negative"),
        ("unet", "layers_per_block", 10**6, "more layers than its"),
        ("unet", "layers_per_block", -1, "negative"),
        ("unet", "in_channels", 10**9, "GB of memory"),
        ("unet", "cross_attention_dim", 10**9, "GB of memory"),
        ("unet", "cross_attention_dim", 10**12, "at most"),
        ("unet", "attention_head_dim", -8, "negative"),
        ("unet", "norm_num_groups", -1, "negative"),
        ("unet", "norm_eps", NAN, "finite"),
        ("vae", "scaling_factor", "x", "a number"),
        ("vae", "scaling_factor", 1e300, "finite"),
        ("vae", "layers_per_block", 10**6, "more layers than its"),
        ("vae", "latent_channels", 10**9, "GB of memory"),
        ("text_encoder", "num_hidden_layers", 10**7, "more layers than its"),
        ("text_encoder", "num_attention_heads", -1, "negative"),
        ("text_encoder", "hidden_size", 10**9, "GB of memory"),
        ("text_encoder", "max_position_embeddings", 10**10, "at most"),
        ("text_encoder", "layer_norm_eps", NAN, "finite"),
    ],
)
def test_an_impossible_value_is_named_before_anything_is_built(
    folder: Path, monkeypatch, part: str, field: str, value: object, says: str
) -> None:
    def built(*_: object, **__: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", built)
    monkeypatch.setattr("adjointdpm.support.memory.free_bytes", lambda device: 64 * 2**30)
    edit(folder, part, **{field: value})
    with pytest.raises(ModelError, match=says) as caught:
        adj.load(folder)
    assert str(folder / part / "config.json") in str(caught.value)
    assert field in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "null", '{"a": ' * 5000])
def test_a_config_that_is_no_mapping_is_named(folder: Path, text: str) -> None:
    (folder / "unet" / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json"):
        adj.load(folder)


@pytest.mark.parametrize("scale", [None, 0])
def test_a_scale_of_latents_that_nothing_is_decoded_with_is_refused(folder: Path, scale) -> None:
    edit(folder, "vae", scaling_factor=scale)
    with pytest.raises(ModelError, match=r"config\.json has scaling_factor"):
        adj.load(folder)


@pytest.mark.parametrize("size", [None, 0, [64], [0, 64]])
def test_a_size_that_no_noise_has_is_refused(folder: Path, size: object) -> None:
    edit(folder, "unet", sample_size=size)
    with pytest.raises(ModelError, match=r"config\.json has sample_size"):
        adj.load(folder).noise(1, 0)


def test_a_size_of_noise_that_fits_nowhere_is_refused(folder: Path) -> None:
    edit(folder, "unet", sample_size=10**9)
    with pytest.raises(InvalidInputError, match="GB of memory"):
        adj.load(folder).noise(1, 0)


@pytest.mark.parametrize("name", list(CASES)[::6])
def test_configs_of_other_pipelines_pass(name: str, tmp_path) -> None:
    for part, network in build(name).components.items():
        if isinstance(network, torch.nn.Module):
            network.save_pretrained(tmp_path / part)
            library = type(network).__module__.partition(".")[0]
            cls = type(network).__name__
            if hasattr(__import__(library), cls):
                network_configs.check_configs(str(tmp_path), {part: (library, cls)})
