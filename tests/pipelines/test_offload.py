"""Networks that are brought for their call and taken away after it.

There is no GPU here, so what is away is not on another device but holds NaN, or is on disk, or on
the meta device: a graph that used it would show.
"""

from typing import Any

import accelerate
import pytest
import torch
from accelerate.hooks import CpuOffload, UserCpuOffloadHook, add_hook_to_module
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build, denoiser, shaping
from helpers.mixtures import relative_error

NAMES = ["StableDiffusionPipeline", "FluxPipeline", "StableDiffusionControlNetPipeline"]


def loss(samples: Tensor) -> Tensor:
    return (samples.float() * torch.linspace(-1, 1, samples.numel()).view_as(samples)).sum()


def run(pipe: Any, name: str, **more: Any) -> tuple[Tensor, Tensor]:
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(name)).requires_grad_()
    given = CASES[name].arguments | {"generator": torch.Generator().manual_seed(7)} | more
    samples = model(noise=noise, **given)
    loss(samples).backward()
    assert noise.grad is not None
    return samples.detach(), noise.grad


class Away(CpuOffload):
    """As accelerate's hook of `enable_model_cpu_offload`, but what is away holds NaN."""

    def __init__(self, previous: Any) -> None:
        super().__init__("cpu", previous)
        self.kept: dict[str, Tensor] = {}
        self.brought = 0

    def init_hook(self, module: nn.Module) -> nn.Module:
        if not self.kept:
            self.kept = {name: p.data for name, p in module.named_parameters()}
            for parameter in module.parameters():
                parameter.data = torch.full_like(parameter.data, float("nan"))
        return module

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.prev_module_hook is not None:
            self.prev_module_hook.offload()
        self.brought += bool(self.kept)
        for name, parameter in module.named_parameters() if self.kept else ():
            parameter.data = self.kept[name]
        self.kept = {}
        return args, kwargs


def offload(pipe: Any) -> dict[str, Away]:
    """What `enable_model_cpu_offload` does."""
    pipe._all_hooks, hooks, before = [], {}, None
    order = [*pipe.model_cpu_offload_seq.split("->"), "controlnet"]
    for name in order:
        network = getattr(pipe, name, None)
        if not isinstance(network, nn.Module):
            continue
        hooks[name] = Away(before if name != "controlnet" else None)
        add_hook_to_module(network, hooks[name])
        before = UserCpuOffloadHook(network, hooks[name])
        pipe._all_hooks.append(before)
    return hooks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gradient", ["exact", "backprop"])
def test_networks_that_are_away_between_their_calls(name: str, gradient: str) -> None:
    expected, full = run(build(name), name)
    pipe = build(name)
    hooks = offload(pipe)
    for _ in range(2):
        samples, found = run(pipe, name, gradient=gradient)
        assert torch.equal(samples, expected)
        assert relative_error(found, full) < 1e-6
    assert all(hook.brought for hook in hooks.values())
    if gradient == "exact":  # for the call, and for its backward pass
        assert hooks["transformer" if "Flux" in name else "unet"].brought >= 3
    assert [hook.hook for hook in pipe._all_hooks] == list(hooks.values())


def test_generate_with_networks_that_are_away() -> None:
    found = []
    for away in (False, True):
        pipe = build(NAMES[0])
        model = adj.from_pipeline(pipe)
        if away:
            offload(pipe)
        noise = model.noise(2, 1).requires_grad_()
        embeds = model.encode(["red fox", "owl"])["prompt_embeds"]
        samples = model.generate(noise=noise, prompt_embeds=embeds, steps=3)
        loss(samples).backward()
        found.append((samples, noise.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert relative_error(found[1][1], found[0][1]) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_sequential_offload(name: str) -> None:
    expected, full = run(build(name), name)
    pipe = build(name)
    for part in list(pipe.components.values()):
        if isinstance(part, nn.Module):
            accelerate.cpu_offload(
                part, torch.device("cpu"), offload_buffers=bool(part._parameters)
            )
    assert any(p.is_meta for p in denoiser(pipe).parameters())
    samples, found = run(pipe, name)
    assert torch.equal(samples, expected)
    assert relative_error(found, full) < 1e-6
    assert all(p.is_meta for p in denoiser(pipe).parameters())


def test_weights_that_are_offloaded_one_by_one_cannot_be_trained_and_say_so() -> None:
    pipe = build(NAMES[0])
    pipe.unet.requires_grad_()
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"))
    with pytest.raises(adj.errors.UnsupportedError, match=r"'unet'.*sequential offloading"):
        run(pipe, NAMES[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_group_offload_to_disk(name: str, kind: str, tmp_path) -> None:
    expected, full = run(build(name), name)
    pipe = build(name)
    for part in ("unet", "transformer", "vae"):
        if getattr(pipe, part, None) is not None:
            getattr(pipe, part).enable_group_offload(
                onload_device=torch.device("cpu"),
                offload_device=torch.device("cpu"),
                offload_type=kind,
                num_blocks_per_group=1,
                offload_to_disk_path=str(tmp_path / part),
            )
    for weight in denoiser(pipe).parameters():
        weight.data.fill_(float("nan"))  # what is on disk is not here
    samples, found = run(pipe, name)
    assert torch.equal(samples, expected)
    assert relative_error(found, full) < 1e-6
    denoiser(pipe).requires_grad_()
    with pytest.raises(adj.errors.UnsupportedError, match="group offloading"):
        run(pipe, name)
