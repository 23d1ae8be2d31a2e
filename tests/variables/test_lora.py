"""LoRA: it enters and leaves the pipeline without a trace, and stock diffusers loads its file with
the same picture.
"""

import json
import warnings

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file

from adjointdpm import errors
from adjointdpm.pipelines import from_pipeline
from adjointdpm.variables import LoRA
from helpers.tiny_pipelines import tiny_pipeline


@pytest.fixture
def pipe(tmp_path) -> StableDiffusionPipeline:
    return tiny_pipeline(tmp_path)


@torch.no_grad()
def draw(pipe: StableDiffusionPipeline) -> torch.Tensor:
    model = from_pipeline(pipe)
    return model.generate("red fox", model.noise(1, 0), steps=2, guidance_scale=3.0)


def scrambled(variable: LoRA) -> LoRA:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in variable.tensors().values():
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return variable


def structure(pipe: StableDiffusionPipeline) -> list[tuple[str, int, bool]]:
    modules = [(name, id(module), module.training) for name, module in pipe.unet.named_modules()]
    return modules + [
        (f"{part}.{n}", id(p), p.requires_grad)
        for part in ("unet", "vae")
        for n, p in getattr(pipe, part).named_parameters()
    ]


def test_it_starts_as_the_untouched_model(pipe) -> None:
    plain = draw(pipe)
    with LoRA(pipe):
        assert torch.equal(draw(pipe), plain)


def test_only_its_weights_require_grad_and_the_pipeline_is_as_it_was_afterwards(pipe) -> None:
    pipe.unet.conv_in.requires_grad_(False)
    before, plain = structure(pipe), draw(pipe)
    variable = scrambled(LoRA(pipe))
    assert structure(pipe) == before
    with variable:
        learned = [
            p
            for part in (pipe.unet, pipe.vae, pipe.text_encoder)
            for p in part.parameters()
            if p.requires_grad
        ]
        assert {id(p) for p in learned} == {id(p) for p in variable.tensors().values()}
        assert pipe.unet.active_adapters() == ["adjointdpm"]
        changed = draw(pipe)
        assert not torch.allclose(changed, plain, atol=1e-3)
        with variable.disabled():
            assert torch.equal(draw(pipe), plain)
            with variable.disabled():
                assert torch.equal(draw(pipe), plain)
            assert torch.equal(draw(pipe), plain)
        assert torch.equal(draw(pipe), changed)
    assert structure(pipe) == before
    assert not hasattr(pipe.unet, "peft_config")
    assert torch.equal(draw(pipe), plain)
    with variable.disabled():
        assert torch.equal(draw(pipe), plain)
    with variable:
        assert torch.equal(draw(pipe), changed)


def test_an_error_inside_takes_the_adapter_out_too(pipe) -> None:
    before = structure(pipe)
    with pytest.raises(RuntimeError, match="stop"), LoRA(pipe):
        raise RuntimeError("stop")
    assert structure(pipe) == before


def test_the_seed_fixes_the_start_and_no_global_generator_is_touched(pipe) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = LoRA(pipe, seed=1)
    with first:
        pass
    assert torch.equal(torch.rand(3), expected)
    again, other = LoRA(pipe, seed=1), LoRA(pipe, seed=2)
    assert list(first.tensors()) == list(again.tensors()) == list(other.tensors())
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])
        assert bool(tensor.any()) == ("lora_A" in name)
        assert torch.equal(tensor, other.tensors()[name]) == ("lora_B" in name)


def test_the_first_gradient_reaches_b_and_the_next_one_a(pipe) -> None:
    variable = LoRA(pipe, rank=2)
    model = from_pipeline(pipe)
    with variable:
        for reaches_a in (False, True):
            model.generate(
                "red fox", model.noise(1, 0), steps=2, guidance_scale=3.0
            ).square().sum().backward()
            for name, tensor in variable.tensors().items():
                assert bool(tensor.grad.any()) == (reaches_a or "lora_B" in name)
            with torch.no_grad():
                for tensor in variable.tensors().values():
                    tensor.sub_(0.01 * tensor.grad)


@pytest.mark.parametrize(
    ("rank", "alpha", "targets"),
    [
        (4, None, ("to_q", "to_k", "to_v", "to_out.0")),
        (4, 16, ("to_q", "to_k", "to_v", "to_out.0")),
        (3, 0.5, ("attn2.to_v", "conv1", "proj_in", "ff.net.2")),
    ],
)
def test_stock_diffusers_loads_it_and_draws_the_same_picture(
    pipe, tmp_path, rank, alpha, targets
) -> None:
    pipe.save_pretrained(tmp_path / "stock")
    plain = draw(pipe)
    variable = scrambled(LoRA(pipe, rank, alpha, targets))
    with variable:
        mine = draw(pipe)
        assert not torch.allclose(mine, plain, atol=1e-3)
        path = variable.save(tmp_path / "inside")
    inside, outside = load_file(path), load_file(variable.save(tmp_path / "outside"))
    assert inside.keys() == outside.keys()
    assert all(torch.equal(inside[name], outside[name]) for name in inside)
    assert all(tensor.dtype == torch.float32 for tensor in inside.values())
    assert path.name == "pytorch_lora_weights.safetensors"
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "stock", local_files_only=True)
    stock.load_lora_weights(str(path.parent), local_files_only=True)
    noise = from_pipeline(pipe).noise(1, 0)
    theirs = stock(
        "red fox", latents=noise, num_inference_steps=2, guidance_scale=3.0, output_type="pt"
    ).images
    torch.testing.assert_close(torch.as_tensor(theirs).float(), mine.clamp(0, 1), atol=1e-5, rtol=0)
    (config,) = stock.unet.peft_config.values()
    assert (config.r, config.lora_alpha) == (rank, alpha or rank)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["lora_adapter_metadata"])
    assert str(tmp_path) not in json.dumps(facts)


def test_its_distance_is_the_relative_change_of_the_adapted_weights(pipe) -> None:
    variable = scrambled(LoRA(pipe, 3, 0.5, ("attn1.to_q", "conv1")))
    change = start = 0.0
    for name, a in variable.tensors().items():
        if "lora_A" in name:
            b = variable.tensors()[name.replace("lora_A", "lora_B")]
            start += (
                pipe.unet.get_submodule(name.removesuffix(".lora_A.weight"))
                .weight.square()
                .sum()
                .item()
            )
            change += ((0.5 / 3) * b.flatten(1) @ a.flatten(1)).square().sum().item()
    assert variable.regularisers()["distance"].item() == pytest.approx(change / start, rel=1e-5)


def test_it_learns_beside_an_adapter_that_is_active_already(pipe) -> None:
    targets = ["to_q", "to_k"]
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), "style")
    with pytest.warns(UserWarning, match="multiple adapters"):
        pipe.unet.add_adapter(
            LoraConfig(r=2, target_modules=targets, init_lora_weights=False), "idle"
        )
    pipe.unet.set_adapter("style")
    before, plain = structure(pipe), draw(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        variable = LoRA(pipe)
        with variable:
            assert torch.equal(draw(pipe), plain)
            scrambled(variable)
            assert not torch.allclose(draw(pipe), plain, atol=1e-3)
            assert sum(p.requires_grad for p in pipe.unet.parameters()) == len(variable.tensors())
            with variable.disabled():
                assert torch.equal(draw(pipe), plain)
    assert structure(pipe) == before
    assert pipe.unet.active_adapters() == ["style"]
    assert torch.equal(draw(pipe), plain)


def test_adapters_that_would_switch_it_off_or_have_its_name_are_refused(pipe) -> None:
    variable = LoRA(pipe, name="mine")
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "mine")
    before = structure(pipe)
    with pytest.raises(errors.InvalidInputError, match="'mine' already"):
        LoRA(pipe, name="mine")
    with pytest.raises(errors.InvalidInputError, match="'mine' already"), variable:
        pass
    pipe.unet.disable_adapters()
    with pytest.raises(errors.InvalidInputError, match="switched off"):
        LoRA(pipe)
    pipe.unet.enable_adapters()
    assert structure(pipe) == before
    pipe.fuse_lora()
    with pytest.raises(errors.InvalidInputError, match="fused"):
        LoRA(pipe)
    pipe.unfuse_lora()
    with LoRA(pipe) as own, pytest.raises(errors.InvalidInputError, match="already"):
        own.__enter__()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": 1.5}, "rank"),
        ({"alpha": 0}, "alpha"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"name": "a.b"}, "dots"),
        ({"name": ""}, "adapter"),
        (
            {"target_modules": ("to_q", "q_proj")},
            "'q_proj'; those that exist .*to_k, to_out.0, to_q, to_v",
        ),
        ({"target_modules": ("o_q",)}, "'o_q'"),
        ({"target_modules": ()}, "to_q"),
    ],
)
def test_bad_arguments_are_refused(pipe, options: dict, message: str) -> None:
    before = structure(pipe)
    with pytest.raises(errors.InvalidInputError, match=message):
        LoRA(pipe, **options)
    assert structure(pipe) == before


def test_a_pipeline_without_denoiser_is_refused(pipe) -> None:
    pipe.unet = None
    with pytest.raises(errors.InvalidInputError, match="neither"):
        LoRA(pipe)


def test_a_half_precision_pipeline_learns_in_float32(pipe) -> None:
    pipe.unet.bfloat16()
    pipe.vae.bfloat16()
    pipe.text_encoder.bfloat16()
    variable = LoRA(pipe)
    assert all(tensor.dtype == torch.float32 for tensor in variable.tensors().values())
    model = from_pipeline(pipe)
    with variable:
        model.generate("red fox", model.noise(1, 0), steps=2, guidance_scale=3.0).sum().backward()
        assert any(tensor.grad.any() for tensor in variable.tensors().values())
