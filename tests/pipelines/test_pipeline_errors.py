"""What cannot work says so: what was wrong, where it began, and what to do."""

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.errors import (
    AdjointDPMError,
    InvalidInputError,
    ModelError,
    NonFiniteError,
    PromptError,
)
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build, denoiser, shaping

SD, FLUX = "StableDiffusionPipeline", "FluxPipeline"
CONTROL = "StableDiffusionControlNetPipeline"


def spoil(number: int, value: float = float("nan")) -> Callable[..., Any]:
    """A forward hook that puts `value` into what a module makes at call `number`."""
    calls: list[int] = []

    def hook(_: nn.Module, inputs: Any, output: Any) -> Any:
        calls.append(1)
        if len(calls) != number:
            return None
        first = output if isinstance(output, Tensor) else output[0]
        spoiled = first.clone()
        spoiled[-1:].fill_(value)
        return spoiled if isinstance(output, Tensor) else (spoiled, *output[1:])

    return hook


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    ("part", "number", "value", "expected"),
    [
        (lambda pipe: denoiser(pipe), 2, float("nan"), "in call 2 of the network 'transformer'"),
        (lambda pipe: denoiser(pipe), 1, float("inf"), "in call 1 of the network 'transformer'"),
        (lambda pipe: pipe.vae.decoder, 1, float("nan"), "last step or the decoder"),
        (
            lambda pipe: pipe.text_encoder_2,
            1,
            float("nan"),
            "before the first call of the network 'transformer': "
            "its argument 'encoder_hidden_states' holds NaN",
        ),
    ],
)
def test_the_stage_where_nan_began_is_named(part, number, value, expected, grad: bool) -> None:
    pipe = build(FLUX)
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(FLUX)).requires_grad_()
    part(pipe).register_forward_hook(spoil(number, value))
    with torch.set_grad_enabled(grad), pytest.raises(NonFiniteError, match=expected) as caught:
        model(noise=noise, **CASES[FLUX].arguments)
    assert "1 of 2 samples" in str(caught.value)


def test_a_scheduler_where_nan_began_is_named() -> None:
    pipe = build(FLUX)
    model = AnyPipeline(pipe)
    cls = type(pipe.scheduler)

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        return (cls.step(self, *args, **kwargs)[0] * float("inf"),)

    pipe.scheduler.__class__ = type("Spoiled", (cls,), {"step": step})
    with pytest.raises(NonFiniteError, match="between calls 1 and 2 of the network 'transformer'"):
        model(noise=model.noise(2, 1, **shaping(FLUX)), **CASES[FLUX].arguments)


def test_float16_is_named_as_the_reason() -> None:
    pipe = build(FLUX).to(torch.float16)
    model = AnyPipeline(pipe)
    pipe.transformer.proj_out.weight.data.fill_(6e4)
    with pytest.raises(NonFiniteError, match=r"'transformer'; it computes in float16.*bfloat16"):
        model(noise=model.noise(2, 1, **shaping(FLUX)), **CASES[FLUX].arguments)


@pytest.mark.parametrize("sampler", [None, "dpmpp", adj.Heun()])
def test_generate_names_the_stage_too(sampler: Any) -> None:
    pipe = build(SD)
    model = adj.from_pipeline(pipe)
    sampler = adj.DPMSolverPP() if sampler == "dpmpp" else sampler
    handle = pipe.unet.register_forward_hook(lambda *args: (args[2][0] * float("nan"),))
    stage = "call 1 of the network 'denoiser'" if sampler is None else "in step 1 of"
    with pytest.raises(NonFiniteError, match=stage):
        model.generate("a fox", model.noise(2, 1), steps=3, sampler=sampler)
    handle.remove()
    pipe.vae.decoder.register_forward_hook(spoil(1))
    with pytest.raises(NonFiniteError, match=r"1 of 2 samples.*began in the decoder"):
        model.generate("a fox", model.noise(2, 1), steps=3, sampler=sampler)


def test_a_pipeline_without_weights_is_refused_before_any_work() -> None:
    pipe = build(FLUX)
    with torch.device("meta"):
        empty = diffusers.FluxTransformer2DModel(**dict(pipe.transformer.config))
    whole = AnyPipeline(pipe)
    pipe.transformer, calls = empty, []
    pipe.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    for make in (
        lambda: adj.from_pipeline(pipe),
        lambda: whole(noise=torch.randn(2, 4, 8, 8), **CASES[FLUX].arguments),
        lambda: whole.noise(2, 1, **shaping(FLUX)),
    ):
        with pytest.raises(ModelError, match=r"transformer \(FluxTransformer2DModel\).*meta"):
            make()
    assert not calls


@pytest.mark.parametrize(
    ("name", "part"),
    [(SD, "unet"), (SD, "vae"), (FLUX, "text_encoder"), (FLUX, "text_encoder_2")],
)
def test_a_file_that_lacks_a_tensor_is_named(name: str, part: str, tmp_path) -> None:
    build(name).save_pretrained(tmp_path)
    adj.load(tmp_path)
    (file,) = (tmp_path / part).glob("*.safetensors")
    tensors = load_file(file)
    lost = [key for key in tensors if "weight" in key and tensors[key].ndim > 1][1]
    del tensors[lost]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=rf"weights of {part} .*lack 1 .*{lost}"):
        adj.load(tmp_path)


def test_what_the_pipeline_itself_refuses_is_an_error_of_this_library() -> None:
    pipe = build(FLUX)
    model = AnyPipeline(pipe)
    given = CASES[FLUX].arguments
    with pytest.raises(InvalidInputError, match=r"FluxPipeline refuses.*max_sequence_length"):
        model(**given | {"max_sequence_length": 4000})
    embeds = torch.zeros(2, 8, 16)
    with pytest.raises(InvalidInputError, match=r"both `prompt`.*and `prompt_embeds`"):
        model(**given, prompt_embeds=embeds)
    with pytest.raises(InvalidInputError, match="FluxPipeline refuses"):
        model.noise(1, 0, prompt="a", prompt_embeds=embeds)


def test_errors_of_others_keep_their_class() -> None:
    pipe = build(FLUX)
    model = AnyPipeline(pipe)

    def stop(*_: Any) -> Any:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        model(**CASES[FLUX].arguments, callback_on_step_end=stop)
    assert not isinstance(caught.value, AdjointDPMError)
    pipe.text_encoder.register_forward_pre_hook(stop)
    with pytest.raises(ValueError, match="mine") as caught:
        model(**CASES[FLUX].arguments)
    assert not isinstance(caught.value, AdjointDPMError)


def test_long_embeddings_without_negative_ones_are_an_error() -> None:
    pipe = build(SD)
    noise = AnyPipeline(pipe).noise(2, 1)
    length = pipe.text_encoder.config.max_position_embeddings
    embeds = torch.randn(2, 2 * length, 16)
    model = adj.from_pipeline(pipe)
    with pytest.raises(PromptError, match=r"16 tokens.*takes 8.*negative_prompt_embeds"):
        model.generate(noise=noise, prompt_embeds=embeds, steps=2)
    model.generate(noise=noise, prompt_embeds=embeds, steps=2, guidance_scale=1)
    model.generate(noise=noise, prompt_embeds=embeds, negative_prompt_embeds=embeds * 0, steps=2)
    for call in (model, AnyPipeline(pipe)):
        with pytest.raises(InvalidInputError, match="StableDiffusionPipeline refuses"):
            call(noise=noise, prompt_embeds=embeds, num_inference_steps=2)


def test_a_loop_network_that_gets_no_gradient_is_named() -> None:
    pipe = build(CONTROL)
    model, given = AnyPipeline(pipe), CASES[CONTROL].arguments
    forward = pipe.controlnet.forward

    def detached(*args: Any, **kwargs: Any) -> Any:
        down, middle = forward(*args, **kwargs)
        return [tensor.detach() for tensor in down], middle.detach()

    pipe.controlnet.forward = detached
    with pytest.raises(adj.errors.UnsupportedError, match="'controlnet' without gradients"):
        model(noise=model.noise(2, 1, **shaping(CONTROL)).requires_grad_(), **given)


def test_a_second_run_of_a_network_behind_another_that_differs_is_named() -> None:
    pipe = build(CONTROL)
    model, given = AnyPipeline(pipe), CASES[CONTROL].arguments
    samples = model(noise=model.noise(2, 1, **shaping(CONTROL)).requires_grad_(), **given)
    pipe.controlnet.register_forward_hook(lambda *args: ([x * 2 for x in args[2][0]], args[2][1]))
    with pytest.raises(adj.errors.ChangedTensorError, match="'controlnet' gave another result"):
        samples.sum().backward()
