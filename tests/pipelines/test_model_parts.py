"""Model folders whose weights are not what their config says: named, and never random pictures."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

import adjointdpm as adj
from adjointdpm.errors import AdjointDPMWarning, ModelError, NonFiniteError, ScheduleError
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build, shaping

FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build("StableDiffusionPipeline").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def change(folder: Path, part: str, edit: Callable[[dict[str, Tensor], str], Any]) -> str:
    """Edit the tensors of a part's file; returns the name of the one that `edit` was given."""
    file = folder / FILES[part]
    tensors = load_file(file)
    name = sorted(name for name in tensors if tensors[name].ndim > 1)[-1]
    edit(tensors, name)
    save_file(tensors, file, metadata={"format": "pt"})
    return name


def put(value: float) -> Callable[[dict[str, Tensor], str], Any]:
    return lambda tensors, name: tensors[name].view(-1)[-1:].fill_(value)


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("settings", [{}, {"low_cpu_mem_usage": False}])
def test_a_missing_tensor_is_named(folder: Path, part: str, settings: dict[str, Any]) -> None:
    name = change(folder, part, lambda tensors, name: tensors.pop(name))
    with pytest.raises(ModelError, match=rf"weights of {part} .*lack 1 tensor: \S*{name[-12:]}"):
        adj.load(folder, **settings)


def test_several_missing_tensors_are_counted(folder: Path) -> None:
    def edit(tensors: dict[str, Tensor], _: str) -> None:
        for name in [n for n in tensors if "q_proj.weight" in n or "token_embedding" in n]:
            del tensors[name]

    change(folder, "text_encoder", edit)
    with pytest.raises(ModelError, match=r"text_encoder .*lack 3 tensors: .*token_embedding"):
        adj.load(folder)


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_tensor_that_is_not_finite_is_named(folder: Path, part: str, value: float) -> None:
    change(folder, part, put(value))
    with pytest.raises(ModelError, match=rf"^{part} \(\w+\) has 1 tensor with NaN or infinite"):
        adj.load(folder)


def test_large_weights_are_finite_until_they_are_cast(folder: Path) -> None:
    change(folder, "vae", put(3e38))
    change(folder, "unet", lambda tensors, name: tensors[name].fill_(3e38))
    assert adj.load(folder).pipe is not None
    with pytest.raises(ModelError, match=r"vae .*bfloat16 or float32 if they overflow in float16"):
        adj.load(folder, torch_dtype=torch.float16, unet=build("StableDiffusionPipeline").unet)


def test_a_pipeline_in_memory_is_looked_at_too() -> None:
    pipe = build("StableDiffusionPipeline")
    pipe.vae.decoder.conv_in.bias.data[0] = NAN
    with pytest.raises(ModelError, match=r"vae \(AutoencoderKL\).*decoder\.conv_in\.bias"):
        adj.from_pipeline(pipe)
    pipe.vae.decoder.conv_in.bias.data[0] = 0
    pipe.unet.register_buffer("mask", torch.tensor([-INF, 0.0]), persistent=False)
    assert adj.from_pipeline(pipe) is not None


@pytest.mark.parametrize("part", FILES)
def test_a_tensor_that_nothing_takes_is_told_of_and_stock_pictures_are_made(
    folder: Path, whole: Path, part: str
) -> None:
    change(folder, part, lambda tensors, _: tensors.update(foreign=torch.zeros(3)))
    with pytest.warns(AdjointDPMWarning, match=rf"weights of {part} hold 1 tensor .*: foreign"):
        model = adj.load(folder)
    noise = model.noise(1, 0)
    with torch.no_grad():
        pictures = [m.generate("a fox", noise, steps=1) for m in (model, adj.load(whole))]
    assert torch.equal(*pictures)


@pytest.mark.parametrize("part", FILES)
def test_a_tensor_of_another_shape_is_named(folder: Path, part: str) -> None:
    name = change(folder, part, lambda tensors, name: tensors.update({name: torch.zeros(3, 3)}))
    with pytest.raises(ModelError) as caught:
        adj.load(folder)
    text = str(caught.value)
    assert f"the weights of {part} do" in text
    assert name.rpartition(".")[2] in text
    assert "3, 3" in text
    assert "ignore_mismatched" not in text
    assert "low_cpu_mem_usage" not in text


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.9])
def test_a_file_that_was_cut_off_is_named(folder: Path, part: str, share: float) -> None:
    file = folder / FILES[part]
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=rf"{FILES[part]} is damaged or cut off"):
        adj.load(folder)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_the_libraries_tables_do_not_reach_the_log(
    folder: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    def loud() -> None:
        for name in ("diffusers", "transformers"):
            logging.getLogger(name).setLevel(logging.WARNING)
            logging.getLogger(name).propagate = True

    loud()
    change(folder, part, lambda tensors, name: tensors.update(foreign=tensors.pop(name)))
    with caplog.at_level(logging.WARNING), pytest.raises(ModelError):
        adj.load(folder)
    assert [r.getMessage() for r in caplog.records if "foreign" in r.getMessage()] == []


def test_what_is_put_in_place_of_the_libraries_functions_is_taken_out(folder: Path) -> None:
    """And the names exist: another version of a library would leave the messages to itself."""
    report = transformers.modeling_utils.log_state_dict_report
    load = vars(diffusers.ModelMixin)["_load_pretrained_model"]
    adj.load(folder)
    change(folder, "unet", lambda tensors, name: tensors.pop(name))
    with pytest.raises(ModelError):
        adj.load(folder)
    assert transformers.modeling_utils.log_state_dict_report is report
    assert vars(diffusers.ModelMixin)["_load_pretrained_model"] is load


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_decoder_or_denoiser_that_overflows_in_float16_is_named(part: str) -> None:
    pipe = build("StableDiffusionPipeline").to(torch.float16)
    layer = pipe.vae.decoder.conv_in if part == "vae" else pipe.unet.conv_in
    layer.weight.data.fill_(6e4)
    model = adj.from_pipeline(pipe)
    stage = "decoder" if part == "vae" else "network 'denoiser'"
    with pytest.raises(NonFiniteError, match=rf"{stage}; .*float16.*bfloat16 or float32 \(--dtype"):
        model.generate("a fox", model.noise(1, 0), steps=1)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "FluxPipeline"])
@pytest.mark.parametrize(("bias", "shade"), [(-1e4, "black"), (1e4, "white")])
def test_pictures_without_anything_on_them_are_told_of(name: str, bias: float, shade: str) -> None:
    pipe = build(name)
    pipe.vae.decoder.conv_out.bias.data.fill_(bias)
    model = AnyPipeline(pipe) if name == "FluxPipeline" else adj.from_pipeline(pipe)
    noise = model.noise(2, 1, **shaping(name))
    call = model if isinstance(model, AnyPipeline) else partial(model.generate, steps=1)
    given = CASES[name].arguments if call is model else {"prompt": "a fox"}
    with pytest.warns(AdjointDPMWarning, match=f"2 of 2 samples are {shade} all over"):
        call(noise=noise, **given)
    pipe.vae.decoder.conv_out.bias.data.fill_(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AdjointDPMWarning)
        model(noise=noise, **CASES[name].arguments)


@pytest.mark.parametrize("name", ["unet/config.json", "tokenizer/tokenizer.json", "notes"])
def test_a_pipe_in_the_folder_is_refused_before_it_is_read(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=rf"{name} is no file but a pipe"):
        adj.load(folder)


@pytest.mark.parametrize("content", ["[]", '{"model": 1}', '{"model": {"type": "nothing"}}'])
def test_a_damaged_tokenizer_is_a_refusal(folder: Path, content: str) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="could not be loaded"):
        adj.load(folder)


def test_a_tokenizer_without_a_longest_prompt_is_refused(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer_config\.json may be missing"):
        adj.load(folder)


@pytest.mark.parametrize("value", ["x", [], 10**30])
def test_an_unknown_prediction_is_refused_when_it_is_loaded(folder: Path, value: object) -> None:
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": value}))
    with pytest.raises(ScheduleError, match=r"prediction_type=.* does not know"):
        adj.load(folder)
