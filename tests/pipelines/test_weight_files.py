"""Weights that are not there as safetensors, or only as a variant: said, with what to do."""

import shutil

import pytest

import adjointdpm as adj
from benchmarks.pipelines.cases import build


@pytest.fixture
def folder(tmp_path):
    build("StableDiffusionXLPipeline").save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def test_another_variant_is_named_and_loads(folder) -> None:
    build("StableDiffusionXLPipeline").save_pretrained(folder.parent / "half", variant="fp16")
    with pytest.raises(
        adj.errors.ModelError, match=r"text_encoder, .*unet, vae.*variant='fp16' \(--variant fp16"
    ):
        adj.load(folder.parent / "half")
    assert adj.load(folder.parent / "half", variant="fp16").pipe.unet is not None


def test_one_part_of_another_variant_is_named(folder) -> None:
    file = folder / "text_encoder" / "model.safetensors"
    file.rename(file.with_name("model.fp16.safetensors"))
    with pytest.raises(adj.errors.ModelError, match=r": text_encoder: weights of variant 'fp16'"):
        adj.load(folder)


def test_pickles_are_named_with_how_to_convert_them(folder) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(
        adj.errors.ModelError, match=r"unet: weights in \.bin files only.*use_safetensors=False"
    ):
        adj.load(folder)


def test_no_weights_and_no_such_variant(folder) -> None:
    with pytest.raises(adj.errors.ModelError, match=r"no variant 'fp16'; leave the variant out"):
        adj.load(folder, variant="fp16")
    shutil.rmtree(folder / "vae")
    with pytest.raises(adj.errors.ModelError, match=r"vae: no weight files"):
        adj.load(folder)
