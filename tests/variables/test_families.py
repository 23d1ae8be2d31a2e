"""What is learned on a pipeline of any family draws the same picture in a fresh stock pipeline."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.errors import OutputError, PromptError
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.variables import (
    Example,
    Inputs,
    LoRA,
    PromptEmbedding,
    TokenEmbedding,
    Variable,
    Weights,
)
from adjointdpm.variables.lora_layers import attention_layers, texture_layers
from adjointdpm.variables.networks import denoiser
from benchmarks.pipelines.cases import build, shaping
from benchmarks.pipelines.check import arguments_of

TEXT = [
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "Flux2KleinPipeline",
    "QwenImagePipeline",
    "SanaPipeline",
    "PixArtSigmaPipeline",
    "ZImagePipeline",
    "WanPipeline",
    "StableAudioPipeline",
]
ALL = [*TEXT, "DiTPipeline", "DDPMPipeline"]
PROMPTS = ["red fox", "owl"]


@torch.no_grad()
def draw(name: str, pipe: Any, without: tuple[str, ...] = (), **arguments: Any) -> Tensor:
    model = AnyPipeline(pipe)
    given = {key: value for key, value in arguments_of(name, pipe).items() if key not in without}
    return model(noise=model.noise(2, 1, **shaping(name)), **given | arguments)


def fresh(name: str) -> Any:
    """A pipeline that shares nothing with others of its class."""
    pipe = build(name)
    for part in [key for key in vars(pipe) if key.startswith("tokenizer")]:
        setattr(pipe, part, copy.deepcopy(getattr(pipe, part)))
    return pipe


def move(variable: Variable) -> None:
    generator = torch.Generator().manual_seed(0)
    for tensor in variable.tensors().values():
        tensor.data.add_(torch.randn(tensor.shape, generator=generator), alpha=0.2)


def loaded(variable: Variable, pipe: Any, folder: Path, monkeypatch) -> dict[str, Any]:
    """Save, check, and run the lines that the variable says."""
    variable.save(folder)
    variable.check_saved(folder)
    monkeypatch.chdir(folder)
    space = {"pipe": pipe}
    exec("\n".join(variable.usage()), space)
    return space


@pytest.mark.parametrize("make", [LoRA, Weights])
@pytest.mark.parametrize("name", ALL)
def test_a_lora_and_weights(name, make, tmp_path, monkeypatch) -> None:
    pipe = build(name)
    untouched = draw(name, pipe)
    variable = make(pipe)
    with variable:
        move(variable)
        learned = draw(name, pipe)
    assert torch.equal(draw(name, pipe), untouched)
    assert (learned - untouched).abs().max() > 1e-4
    other = build(name)
    loaded(variable, other, tmp_path, monkeypatch)
    assert (draw(name, other) - learned).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "FluxPipeline"])
@pytest.mark.parametrize("make", [LoRA, Weights])
def test_names_are_those_of_the_module_inside_a_wrapper(name, make, tmp_path, monkeypatch) -> None:
    pipe = build(name)
    part = "unet" if "Stable" in name else "transformer"
    setattr(pipe, part, torch.compile(getattr(pipe, part), backend="eager"))
    variable = make(pipe)
    with variable:
        move(variable)
        learned = draw(name, pipe)
    assert not any("_orig_mod" in key for key in variable.tensors())
    other = build(name)
    loaded(variable, other, tmp_path, monkeypatch)
    assert (draw(name, other) - learned).abs().max() < 1e-5


@pytest.mark.parametrize("make", [LoRA, Weights])
def test_names_are_those_of_a_network_that_compiles_itself_or_is_shared_out(make) -> None:
    names = make(build("FluxPipeline")).tensors().keys()
    pipe = build("FluxPipeline")
    pipe.transformer.compile(backend="eager")
    assert make(pipe).tensors().keys() == names
    pipe = build("FluxPipeline")
    inner = pipe.transformer
    pipe.transformer = nn.DataParallel(torch.compile(inner, backend="eager"))
    variable = make(pipe)
    assert variable.tensors().keys() == names
    assert variable.network is inner


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("DDPMPipeline", "DiTPipeline")])
def test_a_lora_in_half_precision_keeps_rank_and_alpha(name, tmp_path, monkeypatch) -> None:
    def half() -> Any:
        pipe = build(name)
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.bfloat16()
        return pipe

    variable = LoRA(half(), rank=2, alpha=5)
    assert all(tensor.dtype == torch.float32 for tensor in variable.tensors().values())
    move(variable)
    other = half()
    loaded(variable, other, tmp_path, monkeypatch)
    network = getattr(other, variable.part)
    configs = [*network.peft_config.values()]
    assert [(config.r, config.lora_alpha) for config in configs] == [(2, 5)]
    (adapter,) = network.peft_config
    found = {
        key.replace(f".{adapter}.", "."): tensor.bfloat16()  # diffusers rounds, peft does not
        for key, tensor in network.state_dict().items()
        if ".lora_" in key
    }
    expected = {key: tensor.detach().bfloat16() for key, tensor in variable.tensors().items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_lora_whose_alpha_is_lost_is_noticed(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    variable = LoRA(build("FluxPipeline"), alpha=2)
    path = variable.save(tmp_path)
    save_file(load_file(path), path)
    with pytest.raises(OutputError, match="alpha"):
        variable.check_saved(tmp_path)


def test_a_lora_reaches_every_attention() -> None:
    every = {
        "StableDiffusionPipeline": {"to_q", "to_k", "to_v", "to_out.0"},
        "FluxPipeline": {"add_q_proj", "to_add_out"},
        "Flux2KleinPipeline": {"to_qkv_mlp_proj", "single_transformer_blocks.0.attn.to_out"},
        "ZImagePipeline": {"to_q", "to_k", "to_v", "to_out.0"},
    }
    for name, some in every.items():
        variable = LoRA(build(name))
        assert some <= set(variable.target_modules)
        changed = {key.split(".lora_")[0] for key in variable.tensors()}
        attentions = {
            layer
            for layer, module in variable.network.named_modules()
            if isinstance(module, nn.Linear) and ".attn" in layer and ".norm" not in layer
        }
        assert attentions <= changed


def test_layers_that_draw_textures_come_beside_attention_where_a_network_has_them() -> None:
    every = {
        "StableDiffusionPipeline": {"conv1", "conv2", "proj_in", "proj_out", "net.0.proj", "net.2"},
        "FluxPipeline": {"proj_out", "net.0.proj", "net.2"},
        "ZImagePipeline": set(),
    }
    for name, textures in every.items():
        pipe = build(name)
        network = denoiser(pipe)[1]
        attentions, layers = attention_layers(network), texture_layers(network)
        assert layers[: len(attentions)] == attentions
        assert textures <= set(layers[len(attentions) :])
        changed = {key.split(".lora_")[0] for key in LoRA(pipe, target_modules=layers).tensors()}
        assert all(any(layer.endswith(end) for layer in changed) for end in layers)
        plain = {name for name, module in network.named_modules() if is_convolution(module)}
        assert {layer for layer in plain if layer.endswith(("conv1", "conv2"))} <= changed


def is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d)


def test_a_network_without_attention_is_refused_with_names_of_its_layers() -> None:
    pipe = build("DDPMPipeline")
    pipe.unet = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(adj.errors.InvalidInputError, match=r"Sequential has no attention .* 0;"):
        LoRA(pipe)


@pytest.mark.parametrize("vectors", [1, 2])
@pytest.mark.parametrize("name", TEXT)
def test_a_token(name, vectors, tmp_path, monkeypatch) -> None:
    pipe = fresh(name)
    parts = {key: id(value) for key, value in pipe.components.items()}
    settings = {"template": "{token} {prompt}", "vectors": vectors, "max_norm": 9.0}
    variable = TokenEmbedding(pipe, "<x>", "fox", **settings)
    move(variable)
    prompts = [variable.written(prompt) for prompt in PROMPTS]
    with variable:
        variable.check([Example(prompt, 0) for prompt in PROMPTS])
        learned = draw(name, pipe, prompt=prompts)
        with torch.enable_grad():
            model = AnyPipeline(pipe)
            noise = model.noise(2, 1, **shaping(name))
            samples = model(noise=noise, **arguments_of(name, pipe) | {"prompt": prompts})
            weights = torch.linspace(-1, 1, samples.numel()).view_as(samples)
            found = torch.autograd.grad((samples * weights).sum(), [*variable.tensors().values()])
    assert all(gradient.norm() > 0 for gradient in found)
    assert {key: id(value) for key, value in pipe.components.items()} == parts
    assert (draw(name, pipe) - learned).abs().max() > 1e-4
    other = fresh(name)
    loaded(variable, other, tmp_path, monkeypatch)
    assert (draw(name, other, prompt=prompts) - learned).abs().max() < 1e-5


def test_one_file_holds_the_vectors_of_all_encoders_under_the_names_of_trainers(tmp_path) -> None:
    from safetensors.torch import load_file

    keys = {
        "StableDiffusionXLPipeline": {"clip_l", "clip_g"},
        "StableDiffusion3Pipeline": {"clip_l", "clip_g", "t5"},
        "FluxPipeline": {"clip_l", "t5"},
        "ZImagePipeline": {"<x>"},
    }
    for name, expected in keys.items():
        path = TokenEmbedding(build(name), "<x>", "fox").save(tmp_path)
        assert load_file(path).keys() == expected


@pytest.mark.parametrize("name", [n for n in TEXT if "Audio" not in n])
def test_a_prompt_embedding(name, tmp_path, monkeypatch) -> None:
    pipe = build(name)
    given = arguments_of(name, pipe)
    further = {
        k: given[k] for k in ("max_sequence_length", "text_encoder_out_layers") if k in given
    }
    model = AnyPipeline(pipe)
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda prompts: encode(prompts, **further))
    variable = PromptEmbedding(model, "red fox")
    assert not any(key.startswith("negative") for key in variable.tensors())
    without = ("prompt", "negative_prompt")
    inputs = Inputs([Example("red fox", 0)] * 2, ["red fox"] * 2, torch.zeros(2, 1))
    start = draw(name, pipe, without, **variable.apply(inputs).encoded)
    move(variable)
    learned = draw(name, pipe, without, **variable.apply(inputs).encoded)
    assert (learned - start).abs().max() > 1e-4
    space = loaded(variable, pipe, tmp_path, monkeypatch)
    embeds = {
        key: rows * 2 if isinstance(rows, list) else rows.expand(2, *rows.shape[1:])
        for key, rows in space["embeds"].items()
    }
    assert (draw(name, pipe, without, **embeds) - learned).abs().max() < 1e-5


def test_a_token_that_the_pipeline_changes_is_refused() -> None:
    pipe = fresh("PixArtSigmaPipeline")  # it reads everything in lower case
    with (
        TokenEmbedding(pipe, "<Dusk>", "fox") as token,
        pytest.raises(PromptError, match=r"PixArtSigmaPipeline changes the prompt .*lower case"),
    ):
        token.check([Example("red", 0)])


def test_a_pipeline_without_text_learns_no_token() -> None:
    with pytest.raises(PromptError, match="DiTPipeline has no text encoder"):
        TokenEmbedding(build("DiTPipeline"), "<x>", "fox")


@pytest.mark.parametrize("make", [LoRA, Weights])
def test_a_file_that_is_not_what_was_learned_is_noticed(make, tmp_path) -> None:
    variable = make(build("FluxPipeline"))
    variable.save(tmp_path)
    variable.check_saved(tmp_path)
    with torch.no_grad():
        [*variable.tensors().values()][3].add_(1)
    with pytest.raises(OutputError, match="read back"):
        variable.check_saved(tmp_path)


def test_a_damaged_file_is_noticed(tmp_path) -> None:
    variable = TokenEmbedding(build("FluxPipeline"), "<x>", "fox")
    path = variable.save(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(OutputError, match="cannot be read back"):
        variable.check_saved(tmp_path)


def test_the_loop_s_network_is_chosen_without_its_name() -> None:
    pipe = build("DDPMPipeline")
    assert Weights(pipe).part == "unet"
    assert LoRA(build("FluxPipeline")).part == "transformer"
    with pytest.raises(adj.errors.InvalidInputError, match="no network 'unet'"):
        Weights(build("FluxPipeline"), "unet")
    assert isinstance(pipe.unet, nn.Module)
