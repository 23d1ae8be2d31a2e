"""Networks of less precision than the noise: half precision, autocast, casting, upcast decoders."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build, denoiser, shaping
from benchmarks.pipelines.stock import stock_samples
from helpers.mixtures import relative_error
from helpers.pipeline_state import everything

SD, XL, FLUX = "StableDiffusionPipeline", "StableDiffusionXLPipeline", "FluxPipeline"
FLOAT8 = torch.float8_e4m3fn


def loss(samples: Tensor) -> Tensor:
    return (samples.float() * torch.linspace(-1, 1, samples.numel()).view_as(samples)).sum()


def run(pipe: Any, name: str, **arguments: Any) -> tuple[Tensor, Tensor]:
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(name)).requires_grad_()
    given = dict(CASES[name].arguments) | {"generator": torch.Generator().manual_seed(7)}
    samples = model(noise=noise, **(given | arguments))
    loss(samples).backward()
    assert noise.grad is not None
    assert noise.grad.dtype == torch.float32
    return samples.detach(), noise.grad


@pytest.mark.parametrize("name", [SD, XL, FLUX, "StableDiffusionControlNetPipeline", "WanPipeline"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_give_what_float32_gives(name: str, dtype: torch.dtype) -> None:
    expected, full = run(build(name), name)
    pipe = build(name).to(dtype)
    given = {
        key: value.to(dtype) if torch.is_tensor(value) else value
        for key, value in CASES[name].arguments.items()
    }
    samples, gradient = run(pipe, name, **given)
    tolerance = {torch.bfloat16: 0.3, torch.float16: 0.1}[dtype]
    assert relative_error(samples.float(), expected) < tolerance
    # Rounding moves the gradient of Wan's tiny network more, and differently on each machine.
    assert relative_error(gradient, full) < tolerance * (2 if name == "WanPipeline" else 1)


def test_autocast_is_that_of_the_call_in_the_backward_pass_too() -> None:
    pipe = build(FLUX)
    model, given = AnyPipeline(pipe), CASES[FLUX].arguments
    gradients = []
    for method in ("exact", "backprop"):
        noise = model.noise(2, 1, **shaping(FLUX)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            samples = model(noise=noise, gradient=method, **given)
        loss(samples).backward()
        gradients.append(noise.grad)
    assert relative_error(*gradients) < 1e-6
    assert relative_error(gradients[0], run(pipe, FLUX)[1]) > 1e-4


@pytest.mark.parametrize("ends", ["well", "in the decoder", "without gradients"])
def test_an_upcast_decoder_is_the_calls_own(ends: str) -> None:
    pipe = build(XL)
    expected, full = run(pipe, XL)
    pipe.vae.to(torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    if ends == "in the decoder":
        handle = pipe.vae.decoder.conv_out.register_forward_pre_hook(lambda *_: 1 / 0)
        before = everything(pipe)
        with pytest.raises(ZeroDivisionError):
            run(pipe, XL)
        assert everything(pipe) == before
        handle.remove()
    if ends == "without gradients":
        with torch.no_grad():
            noise = AnyPipeline(pipe).noise(2, 1, **shaping(XL))
            given = CASES[XL].arguments
            found = AnyPipeline(pipe)(noise=noise, **given)
        assert relative_error(found, expected) < 1e-2
        return
    before = everything(pipe)
    samples, gradient = run(pipe, XL)
    assert samples.dtype == torch.float32
    assert everything(pipe) == before
    assert relative_error(samples, expected) < 1e-2
    assert relative_error(gradient, full) < 1e-2


def test_weights_of_an_upcast_decoder_get_their_gradients() -> None:
    found = []
    for half in (False, True):
        pipe = build(XL)
        weight = pipe.vae.decoder.conv_in.weight.requires_grad_()
        if half:
            pipe.vae.to(torch.float16)
            pipe.vae.register_to_config(force_upcast=True)
        run(pipe, XL)
        assert weight.grad is not None
        assert weight.grad.dtype == weight.dtype
        found.append(weight.grad.float())
    assert relative_error(found[1], found[0]) < 1e-2


def cast(pipe: Any, storage: torch.dtype) -> Any:
    """The same weights twice: stored in `storage` with hooks, and rounded by hand."""
    for part in (denoiser(pipe), pipe.vae):
        part.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    rounded = build(type(pipe).__name__)
    for name, part in rounded.components.items():
        if isinstance(part, nn.Module):
            state = getattr(pipe, name).state_dict()
            part.load_state_dict(
                {key: t.float() if t.is_floating_point() else t for key, t in state.items()}
            )
    return rounded


@pytest.mark.parametrize("name", [SD, XL, FLUX])
@pytest.mark.parametrize("storage", [torch.bfloat16, FLOAT8])
def test_layerwise_casting_gives_what_the_rounded_weights_give(name: str, storage) -> None:
    plain = run(build(name), name)
    pipe = build(name)
    rounded = cast(pipe, storage)
    samples, gradient = run(pipe, name)
    expected, full = run(rounded, name)
    assert torch.equal(samples, expected)
    assert relative_error(gradient, full) < 1e-6
    assert relative_error(gradient, plain[1]) > 1e-4  # the rounding shows
    assert any(p.dtype == storage for p in denoiser(pipe).parameters())


@pytest.mark.parametrize("storage", [torch.bfloat16, FLOAT8])
def test_layerwise_casting_in_generate(storage: torch.dtype) -> None:
    pipe = build(SD)
    rounded = cast(pipe, storage)
    given = CASES[SD].arguments["prompt"]
    found = []
    for each in (pipe, rounded):
        model = adj.from_pipeline(each)
        assert model.dtype == torch.float32
        noise = model.noise(2, 1).requires_grad_()
        embeds = model.encode(given)["prompt_embeds"].detach().requires_grad_()
        samples = model.generate(noise=noise, prompt_embeds=embeds, steps=3, guidance_scale=3.0)
        loss(samples).backward()
        found.append((samples.detach(), noise.grad, embeds.grad))
        stock = stock_samples(
            each, {"prompt": given, "num_inference_steps": 3, "guidance_scale": 3.0}, noise.detach()
        )
        assert (samples.detach().clamp(0, 1) - stock.detach().clamp(0, 1)).abs().max() < 1e-4
    for ours, full in zip(*found, strict=True):
        assert full.norm() > 0
        assert relative_error(ours, full) < 1e-6


def test_weights_that_are_cast_cannot_be_trained_and_say_so() -> None:
    pipe = build(SD)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    model = adj.from_pipeline(pipe)
    pipe.unet.requires_grad_()
    for call in (lambda: model.generate("a fox", steps=2), lambda: run(pipe, SD)):
        with pytest.raises(adj.errors.UnsupportedError, match=r"'unet'.*layerwise casting.*LoRA"):
            call()


def test_a_lora_beside_cast_weights_is_trained() -> None:
    from peft import LoraConfig

    found = []
    for each in (build(SD), None):
        pipe = each or cast_and_rounded()
        torch.manual_seed(0)
        pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
        run(pipe, SD)
        (weight, *_) = [p for n, p in pipe.unet.named_parameters() if "lora_A" in n]
        assert weight.grad is not None
        found.append(weight.grad)
    assert relative_error(found[1], found[0]) < 0.2
    assert found[1].norm() > 0


def cast_and_rounded() -> Any:
    pipe = build(SD)
    cast(pipe, torch.bfloat16)
    return pipe
