"""What one network's call hands to another: residuals, caches, containers that are changed."""

import gc
import weakref
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.engine.gradients.autograd.containers import put_together, take_apart
from adjointdpm.engine.gradients.autograd.recompute_tree import HeldGraphs, TreeRecomputation
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build, shaping
from benchmarks.pipelines.parts import assemble
from benchmarks.pipelines.stock import stock_samples
from helpers.mixtures import relative_error

CONTROL = "StableDiffusionControlNetPipeline"


def loss(samples: Tensor) -> Tensor:
    return (samples.float() * torch.linspace(-1, 1, samples.numel()).view_as(samples)).sum()


def controlled(name: str, steps: int) -> tuple[int, int, int, Tensor]:
    """Bytes that autograd saves, calls of the ControlNet, bytes of a state, the gradient."""
    pipe = build(name)
    model = AnyPipeline(pipe)
    noise = model.noise(CASES[name].shape[0], 1, **shaping(name)).requires_grad_()
    counts: list[int] = []
    saved: dict[int, int] = {}
    pipe.controlnet.register_forward_hook(lambda *_: counts.append(1))

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        kept.append(storage)  # no memory is used twice
        return tensor

    kept: list[Any] = []
    given = CASES[name].arguments | {"num_inference_steps": steps}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        samples = model(noise=noise, output="latent", **given)
    loss(samples).backward()
    assert noise.grad is not None
    return sum(saved.values()), len(counts), noise.nbytes, noise.grad


def test_residuals_of_a_controlnet_are_not_kept() -> None:
    few, calls, state, _ = controlled(CONTROL, 3)
    many, all_calls, _, _ = controlled(CONTROL, 12)
    assert (calls, all_calls) == (6, 24)  # twice a step, and no more for what is not kept
    # A step's state, doubled input, two outputs and their sum, and its guidance rescale.
    assert many - few <= 9 * 8 * state
    pipe = build(CONTROL)
    residuals = sum(t.nbytes for t in _residuals(pipe))
    assert residuals > 8 * state  # so that keeping them would show


def _residuals(pipe: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def look(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        found[:] = [
            *kwargs["down_block_additional_residuals"],
            kwargs["mid_block_additional_residual"],
        ]

    pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    model = AnyPipeline(pipe)
    with torch.no_grad():
        model(noise=model.noise(2, 1, **shaping(CONTROL)), **CASES[CONTROL].arguments)
    return found


@pytest.mark.parametrize("weights", ["none", "unet", "controlnet", "both"])
@pytest.mark.parametrize("budget", [None, 10**9])
def test_gradients_behind_residuals_that_are_made_again(weights: str, budget: int | None) -> None:
    pipe = build(CONTROL)
    trained = [
        p
        for n in ("unet", "controlnet")
        if weights in (n, "both")
        for p in getattr(pipe, n).parameters()
        if p.ndim > 1
    ]
    for parameter in trained:
        parameter.requires_grad_()
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(CONTROL)).requires_grad_()
    given = CASES[CONTROL].arguments
    found = []
    for method in (adj.Checkpoint(memory_budget=budget), "backprop"):
        samples = model(noise=noise, gradient=method, **given)
        found.append(torch.autograd.grad(loss(samples), [noise, *trained], allow_unused=True))
    for ours, full in zip(*found, strict=True):
        assert (ours is None) == (full is None)
        assert full is None or relative_error(ours, full) < 1e-5


def test_gradients_of_gradients_and_a_kept_graph() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(3, 3).double(), nn.Bilinear(3, 3, 3).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor) -> Tensor:
        a, b = TreeRecomputation("a", first), TreeRecomputation("b", second)
        for _ in range(2):
            hidden = a([x.tanh()], {}, HeldGraphs(), 0).tanh() * 0 + a([x], {}, HeldGraphs(), 0)
            x = b([a([x], {}, HeldGraphs(), 0), hidden], {}, HeldGraphs(), 0)
        return x

    assert torch.autograd.gradcheck(run, [x])
    assert torch.autograd.gradgradcheck(run, [x])
    out = run(x).sum()
    (once,) = torch.autograd.grad(out, x, retain_graph=True)
    (twice,) = torch.autograd.grad(out, x)
    assert torch.equal(once, twice)


def test_one_output_for_many_calls_is_made_again_once() -> None:
    counts: list[int] = []
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    first.register_forward_hook(lambda *_: counts.append(1))
    a, b = TreeRecomputation("a", first), TreeRecomputation("b", second)
    x = torch.randn(2, 3, requires_grad=True)
    hidden = a([x], {}, HeldGraphs(), 0)
    total = sum(b([hidden], {}, HeldGraphs(), 0).sum() for _ in range(4))
    del hidden
    assert torch.is_tensor(total)
    total.backward()
    assert len(counts) == 2
    assert x.grad is not None
    assert torch.allclose(x.grad, 4 * (second.weight @ first.weight).sum(0).expand(2, 3))


class Cache:
    """Keys of earlier calls, as a plain object."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.inner: dict[str, Any] = {"calls": 0}


class Attending(nn.Module):
    """Sees what it saw in earlier calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        key = self.linear(x)
        cache.keys.append(key)
        cache.inner["calls"] += 1
        return torch.stack(cache.keys).sum(0).tanh() * key


@pytest.mark.parametrize("cleared", [False, True])
def test_a_cache_that_a_network_fills_is_exact(cleared: bool) -> None:
    torch.manual_seed(0)
    network = Attending()
    x = torch.randn(2, 3, requires_grad=True)
    found = []
    for recomputed in (False, True):
        calls, cache = TreeRecomputation("n", network), Cache()
        state = x
        for _ in range(3):
            if recomputed:
                state = calls([state], {"cache": cache}, HeldGraphs(), 0)
            else:
                state = network(state, cache)
        assert len(cache.keys) == cache.inner["calls"] == 3
        value = state.sum() + cache.keys[1].sum()
        if cleared:
            cache.keys.clear()
        found.append(torch.autograd.grad(value, [x, network.linear.weight]))
    for full, ours in zip(*found, strict=True):
        assert full.norm() > 0
        assert relative_error(ours, full) < 1e-6


def test_flux_2_klein_with_a_cache_of_keys_and_values() -> None:
    pipe = assemble(diffusers.Flux2KleinKVPipeline)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    picture = Image.new("RGB", (64, 64), (200, 30, 90))
    given = {"prompt": ["red fox", "owl"], "num_inference_steps": 3, "height": 16, "width": 16}
    given |= {"max_sequence_length": 8, "text_encoder_out_layers": (0, 1, 2), "image": picture}
    weight = max((p for p in pipe.transformer.parameters() if p.ndim > 1), key=Tensor.numel)
    weight.requires_grad_()
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **given | {"prompt": "a"}).requires_grad_()
    found = [
        torch.autograd.grad(loss(samples.clamp(0, 1)), [noise, weight])
        for samples in (model(noise=noise, **given), stock_samples(pipe, given, noise))
    ]
    for ours, full in zip(*found, strict=True):
        assert full.norm() > 0
        assert relative_error(ours, full) < 1e-5


class Held:
    """A tensor that a graph saves."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("backward", [False, True])
def test_nothing_of_a_call_outlives_its_sample(backward: bool) -> None:
    pipe = build(CONTROL)
    model = AnyPipeline(pipe)
    noise = model.noise(2, 1, **shaping(CONTROL)).requires_grad_()
    saved: list[weakref.ref[Held]] = []

    def pack(tensor: Tensor) -> Held:
        saved.append(weakref.ref(held := Held(tensor.detach())))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        samples = model(noise=noise, **CASES[CONTROL].arguments)
    assert any(reference() is not None for reference in saved)
    if backward:
        loss(samples).backward()
    del samples
    gc.collect()
    assert all(reference() is None for reference in saved)


def test_containers_are_rebuilt() -> None:
    cache = Cache()
    cache.keys.append(torch.ones(2))
    tree = ({"a": [1, torch.zeros(1)], "cache": cache}, (None, "text"))
    leaves, form = take_apart(tree)
    again = put_together(leaves, form)
    assert again[0]["cache"] is not cache
    assert vars(again[0]["cache"]) == vars(cache)
    assert again[0]["a"] == tree[0]["a"]
    assert again[1] == tree[1]
    assert take_apart(again)[1] == form
