"""A call changes nothing in the user's pipeline, however it ends, and threads do not disturb."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build, denoiser, shaping
from helpers.pipeline_state import everything

PAG, XL, FLUX = "StableDiffusionPAGPipeline", "StableDiffusionXLPipeline", "FluxPipeline"


def loss(samples: Tensor) -> Tensor:
    return (samples.float() * torch.linspace(-1, 1, samples.numel()).view_as(samples)).sum()


def lora(network: nn.Module) -> None:
    config = LoraConfig(r=2, target_modules=["to_q", "q_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    network.add_adapter(config)


class Stop(BaseException):
    """What no one expects."""


def raising_at(number: int, error: type[BaseException]) -> Callable[..., None]:
    calls: list[int] = []

    def hook(*_: Any) -> None:
        calls.append(1)
        if len(calls) == number:
            raise error("stop")

    return hook


@pytest.mark.parametrize(
    "name", [PAG, XL, FLUX, "WanPipeline", "StableDiffusionControlNetPipeline"]
)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["network", "decoder", "backward", "text encoder", "nowhere"])
def test_nothing_is_changed_wherever_a_call_is_interrupted(name, error, where) -> None:
    pipe = build(name)
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(name)).requires_grad_()
    decoder = getattr(pipe.vae, "decoder", None) or pipe.vae
    part, number = {
        "network": (denoiser(pipe), 2),
        "backward": (denoiser(pipe), 4),
        "decoder": (decoder, 1),
        "text encoder": (pipe.text_encoder, 1),
        "nowhere": (denoiser(pipe), 10**6),
    }[where]
    handle = part.register_forward_pre_hook(raising_at(number, error))
    before = everything(pipe)
    caught = False
    try:
        loss(model(noise=noise, **CASES[name].arguments)).backward()
    except error:
        caught = True
    assert caught == (where != "nowhere")
    assert everything(pipe) == before
    handle.remove()


def test_nothing_is_changed_when_a_callback_raises() -> None:
    pipe = build(PAG)
    model = AnyPipeline(pipe)

    def stop(twin: Any, *_: Any) -> Any:
        twin._guidance_scale, twin._interrupt = 99.0, True
        raise Stop

    before = everything(pipe)
    with pytest.raises(Stop):
        model(noise=model.noise(2, 1), **CASES[PAG].arguments, callback_on_step_end=stop)
    assert everything(pipe) == before


def test_scales_of_loras_are_put_back_when_a_text_encoder_raises() -> None:
    pipe = build("StableDiffusionPipeline")
    lora(pipe.unet)
    lora(pipe.text_encoder)
    model = AnyPipeline(pipe)
    given = CASES["StableDiffusionPipeline"].arguments | {"cross_attention_kwargs": {"scale": 0.3}}
    for part in (pipe.text_encoder, pipe.unet):
        inner = [m for m in part.modules() if isinstance(m, nn.Linear)][-1]
        handle = inner.register_forward_pre_hook(raising_at(1, RuntimeError))
        before = everything(pipe)
        with pytest.raises(RuntimeError, match="stop"):
            model(noise=model.noise(2, 1), **given)
        handle.remove()
        after = everything(pipe)
        hooks = {key for key in before if "_forward_pre_hooks" in key}
        assert {k: v for k, v in after.items() if k not in hooks} == {
            k: v for k, v in before.items() if k not in hooks
        }


def test_interrupt_ends_the_loop_and_stays_with_the_call() -> None:
    pipe = build("StableDiffusionPipeline")
    model, seen = AnyPipeline(pipe), []

    def stop(twin: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(step)
        twin._interrupt = True
        return tensors

    given = CASES["StableDiffusionPipeline"].arguments | {"callback_on_step_end": stop}
    noise = model.noise(2, 1).requires_grad_()
    before = everything(pipe)
    loss(model(noise=noise, **given)).backward()
    assert seen == [0]
    assert noise.grad is not None
    assert noise.grad.norm() > 0
    assert everything(pipe) == before


def gradient(pipe: Any, name: str, seed: int, **arguments: Any) -> Tensor:
    model = AnyPipeline(pipe)
    noise = model.noise(2, seed, **shaping(name)).requires_grad_()
    loss(model(noise=noise, **(CASES[name].arguments | arguments))).backward()
    assert noise.grad is not None
    return noise.grad


def threaded(pipe: Any, name: str, arguments: list[dict[str, Any]], unchanged: bool = True) -> None:
    """Threads at once get what they get one after the other."""

    def run(seed: int) -> Tensor:
        return gradient(pipe, name, seed, **arguments[seed])

    expected = [run(seed) for seed in range(len(arguments))]
    before = everything(pipe)
    with ThreadPoolExecutor(len(arguments)) as pool:
        found = list(pool.map(run, range(len(arguments))))
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()
    assert not unchanged or everything(pipe) == before


def test_threads_whose_pipelines_swap_attention_processors() -> None:
    threaded(build(PAG), PAG, [{"pag_scale": 0.0}, {"pag_scale": 2.0}, {"pag_scale": 4.0}])


def test_threads_with_loras_of_different_scale() -> None:
    name = "StableDiffusionPipeline"
    pipe = build(name)
    for network in (pipe.unet, pipe.text_encoder):
        lora(network)
        network.requires_grad_(False)
    scales = [{"cross_attention_kwargs": {"scale": scale}, "eta": 0.0} for scale in (0.2, 1, 3)]
    threaded(pipe, name, scales)


def test_threads_whose_decoder_is_cast() -> None:
    pipe = build(XL)
    pipe.vae.to(torch.float16)
    pipe.vae.register_to_config(force_upcast=True)
    threaded(pipe, XL, [{}, {}, {}])


def test_threads_whose_networks_cast_their_weights() -> None:
    pipe = build(FLUX)
    pipe.transformer.enable_layerwise_casting(
        storage_dtype=torch.bfloat16, compute_dtype=torch.float32
    )
    threaded(pipe, FLUX, [{}, {}, {}], unchanged=False)  # the weights move: their memory does
