"""Full weights: exchanged without copies, restored, and saved so that stock diffusers draws the
same picture.
"""

import json
import os
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig

from adjointdpm import errors
from adjointdpm.pipelines import from_pipeline
from adjointdpm.variables import Weights
from helpers.tiny_pipelines import tiny_pipeline


@pytest.fixture
def pipe(tmp_path) -> StableDiffusionPipeline:
    return tiny_pipeline(tmp_path)


@torch.no_grad()
def draw(pipe: StableDiffusionPipeline) -> torch.Tensor:
    model = from_pipeline(pipe)
    return model.generate("red fox", model.noise(1, 0), steps=2, guidance_scale=3.0)


def scrambled(variable: Weights) -> Weights:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in variable.tensors().values():
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator))
    return variable


def first_weight(network: torch.nn.Module) -> torch.Tensor:
    return next(network.parameters()).detach().clone()


def storages(tensors) -> set[int]:
    return {tensor.data_ptr() for tensor in tensors}


def test_the_parameters_stay_the_same_objects_and_their_two_storages_are_exchanged(pipe) -> None:
    plain, own = draw(pipe), dict(pipe.unet.named_parameters())
    original = storages(own.values())
    variable = Weights(pipe)
    learned = storages(variable.tensors().values())
    assert not original & learned
    for _ in range(2):
        with variable:
            assert all(variable.tensors()[name] is parameter for name, parameter in own.items())
            assert storages(pipe.unet.parameters()) == learned
            with variable.disabled():
                assert storages(pipe.unet.parameters()) == original
                assert storages(variable.tensors().values()) == learned
                assert torch.equal(draw(pipe), plain)
                with variable.disabled():
                    assert torch.equal(draw(pipe), plain)
                assert torch.equal(draw(pipe), plain)
            assert storages(pipe.unet.parameters()) == learned
        assert storages(pipe.unet.parameters()) == original
        assert storages(variable.tensors().values()) == learned
        assert all(
            dict(pipe.unet.named_parameters())[name] is parameter for name, parameter in own.items()
        )


def test_leaving_restores_the_pipeline_and_keeps_what_was_learned(pipe) -> None:
    pipe.unet.conv_in.requires_grad_(False)
    plain = draw(pipe)
    flags = [
        p.requires_grad
        for part in (pipe.unet, pipe.vae, pipe.text_encoder)
        for p in part.parameters()
    ]
    variable = Weights(pipe, only="attn")
    with variable:
        learned = {n for n, p in pipe.unet.named_parameters() if p.requires_grad}
        assert (
            learned
            == set(variable.tensors())
            == {n for n, _ in pipe.unet.named_parameters() if "attn" in n}
        )
        assert not any(
            p.requires_grad for part in (pipe.vae, pipe.text_encoder) for p in part.parameters()
        )
        # An optimiser made inside the context goes on when it is opened again.
        adam = torch.optim.Adam(variable.tensors().values(), lr=1e-2)
        model = from_pipeline(pipe)
        model.generate("red fox", model.noise(1, 0), steps=2, guidance_scale=3.0).sum().backward()
        adam.step()
        changed = draw(pipe)
        assert not torch.allclose(changed, plain, atol=1e-3)
    assert torch.equal(draw(pipe), plain)
    assert [
        p.requires_grad
        for part in (pipe.unet, pipe.vae, pipe.text_encoder)
        for p in part.parameters()
    ] == flags
    assert all(p.grad is None for p in pipe.unet.parameters())
    with variable:
        assert torch.equal(draw(pipe), changed)
        model.generate("red fox", model.noise(1, 0), steps=2, guidance_scale=3.0).sum().backward()
        adam.step()
        assert not torch.equal(draw(pipe), changed)


def test_an_error_inside_restores_the_pipeline_too(pipe) -> None:
    plain = draw(pipe)
    with pytest.raises(RuntimeError, match="stop"), Weights(pipe) as variable:
        raise RuntimeError(f"stop {scrambled(variable)}")
    assert torch.equal(draw(pipe), plain)


def test_a_pipeline_moved_inside_the_context_loses_nothing(pipe) -> None:
    plain = draw(pipe)
    variable = Weights(pipe)
    with variable:
        pipe.unet.double().float()  # the parameters have other storages now
        scrambled(variable)
        changed = draw(pipe)
        assert not torch.equal(changed, plain)
    assert torch.equal(draw(pipe), plain)
    pipe.unet.double().float()
    with variable:
        assert torch.equal(draw(pipe), changed)
    assert torch.equal(draw(pipe), plain)


@pytest.mark.parametrize("only", [None, "attn2"])
def test_stock_diffusers_loads_the_folder_and_draws_the_same_picture(pipe, tmp_path, only) -> None:
    pipe.save_pretrained(tmp_path / "stock")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "stock", local_files_only=True)
    variable = scrambled(Weights(pipe, only=only))
    out = tmp_path / "run"
    with variable:
        mine = draw(pipe).clamp(0, 1)
        path = variable.save(out)
        weights = (path / "diffusion_pytorch_model.safetensors").read_bytes()
        with variable.disabled():
            variable.save(out)  # in place of the older one
    assert (variable.save(out) / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    assert path == out / "unet"
    assert sorted(p.name for p in path.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert [p.name for p in out.iterdir()] == ["unet"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(
        (tmp_path / "stock" / "unet").stat().st_mode
    )
    assert str(tmp_path) not in json.dumps(json.loads((path / "config.json").read_text()))
    stock = StableDiffusionPipeline.from_pretrained(
        tmp_path / "stock", unet=UNet2DConditionModel.from_pretrained(path)
    )
    noise = from_pipeline(pipe).noise(1, 0)
    theirs = stock(
        "red fox", latents=noise, num_inference_steps=2, guidance_scale=3.0, output_type="pt"
    ).images
    torch.testing.assert_close(torch.as_tensor(theirs).float(), mine, atol=1e-5, rtol=0)


def test_a_failed_write_leaves_the_older_folder(pipe, tmp_path, monkeypatch) -> None:
    variable = Weights(pipe)
    path = variable.save(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in path.iterdir()}

    def full(folder) -> None:
        (folder / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipe.unet, "save_pretrained", full)
    with variable, pytest.raises(errors.OutputError, match="No space left"):
        scrambled(variable).save(tmp_path / "run")
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["unet"]


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_a_process_that_ends_in_the_middle_of_a_save_leaves_whole_weights(
    pipe, tmp_path, monkeypatch, moves: int
) -> None:
    variable = Weights(pipe)
    path = variable.save(tmp_path / "run")
    known = [first_weight(pipe.unet), first_weight(UNet2DConditionModel.from_pretrained(path))]
    scrambled(variable)
    with variable:
        known.append(first_weight(pipe.unet))
    left = [moves]

    def dying(move):
        def moved(*arguments):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return move(*arguments)

        return moved

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(Path, "rename", dying(Path.rename))
        with suppress(KeyboardInterrupt):
            variable.save(tmp_path / "run")
    found = first_weight(UNet2DConditionModel.from_pretrained(path))
    assert any(torch.equal(found, weight) for weight in known)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["unet"]


def test_weights_over_several_files_are_never_a_mixture(pipe, tmp_path, monkeypatch) -> None:
    variable, write = Weights(pipe), pipe.unet.save_pretrained
    monkeypatch.setattr(pipe.unet, "save_pretrained", partial(write, max_shard_size="50KB"))
    path = variable.save(tmp_path)
    shards = len(list(path.glob("*.safetensors")))
    assert shards > 2

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            variable.save(tmp_path)
    with pytest.raises(OSError, match="no file named"):
        UNet2DConditionModel.from_pretrained(path, local_files_only=True)
    monkeypatch.setattr(pipe.unet, "save_pretrained", partial(write, max_shard_size="100KB"))
    variable.save(tmp_path)
    assert len(list(path.glob("*.safetensors"))) < shards
    assert torch.equal(
        first_weight(UNet2DConditionModel.from_pretrained(path)), first_weight(pipe.unet)
    )


def test_another_part_can_be_learned(pipe) -> None:
    plain = draw(pipe)
    with Weights(pipe, part="text_encoder", only="final_layer_norm") as variable:
        model = from_pipeline(pipe)
        model.generate("red fox", model.noise(1, 0), steps=2, guidance_scale=3.0).sum().backward()
        assert all(tensor.grad.any() for tensor in variable.tensors().values())
        scrambled(variable)
        assert not torch.equal(draw(pipe), plain)
    assert torch.equal(draw(pipe), plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "transformer"}, "no network 'transformer'; it has .*unet"),
        ({"part": "tokenizer"}, "no network"),
        ({"only": "q_proj"}, r"'q_proj'.*conv_in.weight"),
        ({"only": "("}, "regular expression"),
    ],
)
def test_bad_arguments_are_refused(pipe, options: dict, message: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=message):
        Weights(pipe, **options)


def test_a_network_with_adapters_is_refused_and_so_is_entering_twice(pipe) -> None:
    with Weights(pipe) as variable, pytest.raises(errors.InvalidInputError, match="already"):
        variable.__enter__()
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(errors.InvalidInputError, match="adapters"):
        Weights(pipe)


def test_bfloat16_is_warned_about_and_float16_refused(pipe) -> None:
    pipe.unet.bfloat16()
    with pytest.warns(errors.AdjointDPMWarning, match="half precision"):
        Weights(pipe)
    pipe.unet.float().conv_in.half()
    with pytest.raises(errors.InvalidTypeError, match=r"2 of the weights.*float16.*LoRA"):
        Weights(pipe)
    Weights(pipe, only="attn")  # these are in float32
