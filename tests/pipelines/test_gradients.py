"""Gradients of `generate` are those of the stock pipeline without `no_grad`, with one network graph
alive.
"""

from typing import Any

import diffusers
import pytest
import torch
from peft import LoraConfig
from torch.multiprocessing.reductions import StorageWeakRef

import adjointdpm as adj
from adjointdpm.engine.gradients.checkpoint import graph_bytes
from helpers.tiny_pipelines import STABLE_DIFFUSION_BETAS, stock, tiny_pipeline

SCHEDULERS = [
    (diffusers.DDIMScheduler, {"clip_sample": False}),
    (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    (diffusers.UniPCMultistepScheduler, {}),
    (diffusers.EulerAncestralDiscreteScheduler, {}),
    (diffusers.HeunDiscreteScheduler, {}),
    # The network predicts v, from zero signal on.
    (
        diffusers.DDIMScheduler,
        {"clip_sample": False, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ),
    (
        diffusers.EulerDiscreteScheduler,
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    ),
]
STEPS = 4


def relative_error(ours: Any, theirs: Any) -> float:
    a, b = (torch.cat([g.flatten() for g in gradients]) for gradients in (ours, theirs))
    assert b.norm() > 0
    return float((a - b).norm() / b.norm())


def stock_pictures(
    pipe: Any, noise: torch.Tensor, guidance: float, **arguments: Any
) -> torch.Tensor:
    """The stock pipeline's latents, decoded as it does but for its last clamp."""
    generator = torch.Generator().manual_seed(5)
    latents = stock(
        pipe,
        latents=noise,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=generator,
        output_type="latent",
        **arguments,
    )
    return pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample / 2 + 0.5


def functional(pictures: torch.Tensor) -> torch.Tensor:
    """A random smooth scalar of the pictures."""
    return (
        pictures * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(9))
    ).sum() + pictures.square().mean()


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize(
    ("scheduler", "config"),
    SCHEDULERS,
    ids=[c.__name__ + config.get("prediction_type", "") for c, config in SCHEDULERS],
)
def test_noise_embeddings_and_all_weights(scheduler, config, guidance, tmp_path):
    seed = 1 + int(guidance)
    pipe = tiny_pipeline(tmp_path, scheduler(**STABLE_DIFFUSION_BETAS, **config), seed=seed)
    model = adj.from_pipeline(pipe)
    noise = model.noise(2, seed=seed).requires_grad_()
    embeds = model.encode(["a red fox", "an owl"])["prompt_embeds"].detach().requires_grad_()
    null = model.encode(["", "blue"])["prompt_embeds"].detach().requires_grad_()
    groups = [
        [noise],
        [embeds],
        [*pipe.unet.parameters()],
        [*pipe.vae.decoder.parameters()],
        *([[null]] if guidance > 1 else []),
    ]
    leaves = [tensor for group in groups for tensor in group]

    negative = {"prompt_embeds": embeds, "negative_prompt_embeds": null}
    ours = model.generate(
        noise=noise,
        steps=STEPS,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(5),
        **negative,
    )
    theirs = stock_pictures(pipe, noise, guidance, **negative)
    gradients = [
        dict(zip(map(id, leaves), torch.autograd.grad(functional(x), leaves), strict=True))
        for x in (ours, theirs)
    ]
    for group in groups:
        assert (
            relative_error(*([gradient[id(tensor)] for tensor in group] for gradient in gradients))
            < 1e-5
        )


@pytest.mark.parametrize(
    ("scheduler", "config"), SCHEDULERS[:3], ids=[c.__name__ for c, _ in SCHEDULERS[:3]]
)
def test_lora_and_token_embeddings(scheduler, config, tmp_path):
    pipe = tiny_pipeline(tmp_path, scheduler(**STABLE_DIFFUSION_BETAS, **config))
    # Not peft's own start, where B = 0 hides the gradient of A.
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    model = adj.from_pipeline(pipe)
    noise = model.noise(2, seed=0)
    lora = [p for p in pipe.unet.parameters() if p.requires_grad]
    tokens = pipe.text_encoder.get_input_embeddings().weight
    assert 0 < len(lora) < len([*pipe.unet.parameters()])
    ours = torch.autograd.grad(
        functional(model.generate("a red fox", noise, steps=STEPS, guidance_scale=5.0)),
        [tokens, *lora],
    )
    theirs = torch.autograd.grad(
        functional(stock_pictures(pipe, noise, 5.0, prompt=["a red fox"] * 2)), [tokens, *lora]
    )
    assert relative_error(ours[:1], theirs[:1]) < 1e-5
    assert relative_error(ours[1:], theirs[1:]) < 1e-5


class LiveGraphs:
    """Counts the network graphs that hold tensors for the backward pass: one saved tensor marks
    each run of a network.
    """

    def __init__(self, *modules: torch.nn.Module) -> None:
        self.saved: list[StorageWeakRef] = []
        self.most = 0
        for module in modules:
            module.register_forward_hook(self._mark)

    def _mark(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        marker = torch.ones_like(output)
        self.saved.append(StorageWeakRef(marker.untyped_storage()))
        output = output * marker
        del marker
        self.most = max(self.most, sum(not reference.expired() for reference in self.saved))
        return output


@pytest.mark.parametrize("sampler", [None, adj.Euler()])
@pytest.mark.parametrize(("gradient", "most"), [("exact", 1), ("backprop", STEPS + 1)])
def test_one_network_graph_is_alive_at_a_time(gradient, most, sampler, tmp_path):
    pipe = tiny_pipeline(tmp_path)
    model = adj.from_pipeline(pipe)
    graphs = LiveGraphs(pipe.unet.conv_in, pipe.vae.decoder.conv_in)
    noise = model.noise(1, seed=0).requires_grad_()
    model.generate("a fox", noise, steps=STEPS, sampler=sampler, gradient=gradient).sum().backward()
    assert graphs.most == most


def test_a_memory_budget_saves_recomputation(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    model = adj.from_pipeline(pipe)
    gradients, calls = [], []
    count = 0

    def add(*_: Any) -> None:
        nonlocal count
        count += 1

    pipe.unet.register_forward_pre_hook(add)
    plenty = adj.Checkpoint(memory_budget=10**10)
    for method in (adj.Checkpoint(), plenty, plenty):
        count = 0
        noise = model.noise(1, seed=0).requires_grad_()
        model.generate("a fox", noise, steps=STEPS, gradient=method).sum().backward()
        gradients.append(noise.grad)
        calls.append(count)
    assert calls == [
        2 * STEPS,
        STEPS + 1,
        STEPS,
    ]  # every call again; one call to measure; what was measured is remembered
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("sampler", [None, "euler"])
def test_a_memory_budget_counts_the_decoder(sampler, tmp_path):
    pipe = tiny_pipeline(tmp_path)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.requires_grad_(False)
    model = adj.from_pipeline(pipe)
    noise, text = model.noise(2, seed=0), model.encode(["a fox"] * 4)["prompt_embeds"]
    network = graph_bytes(
        lambda x: pipe.unet(torch.cat([x, x]), torch.zeros(4), text).sample, noise
    )
    decoder = graph_bytes(model.decode, noise)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    pipe.unet.register_forward_pre_hook(count)
    for budget, kept in (
        (1, 0),
        (decoder, 0),
        (decoder + 1.5 * network, 1),
        (decoder + 3.5 * network, 3),
        (10**9, STEPS),
    ):
        method = adj.Checkpoint(int(budget))
        for _ in range(2):  # the second knows the sizes
            calls = 0
            pictures = model.generate(
                "a fox",
                model.noise(2, seed=0).requires_grad_(),
                steps=STEPS,
                sampler=sampler,
                gradient=method,
            )
            calls = 0
            pictures.sum().backward()
            assert calls == STEPS - kept


def test_dropout_and_autocast_hold_in_the_recomputation(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    pipe.unet.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False, lora_dropout=0.3)
    )
    pipe.unet.train()
    model = adj.from_pipeline(pipe)
    lora = [p for p in pipe.unet.parameters() if p.requires_grad]
    results = []
    for gradient, seed in (("backprop", 0), ("exact", 0), ("backprop", 1)):
        noise = model.noise(1, seed=0).requires_grad_()
        torch.manual_seed(seed)
        # With autocast's cache, backpropagation sums the gradients of all calls for a weight in
        # bfloat16; recomputed calls need none.
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=gradient == "exact"):
            pictures = model.generate("a fox", noise, steps=STEPS, gradient=gradient)
        results.append(torch.autograd.grad(functional(pictures), [noise, *lora]))
    assert relative_error(results[1], results[0]) < 1e-6
    assert relative_error(results[2], results[0]) > 1e-2  # dropout is on


def test_the_adjoint_on_the_scheduler_s_own_grid_is_exact_for_ddim(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    pipe.unet.requires_grad_(False)
    model = adj.from_pipeline(pipe)
    gradients = []
    for gradient in ("exact", adj.Adjoint(states="stored")):
        noise = model.noise(1, seed=0).requires_grad_()
        gradients.append(
            torch.autograd.grad(
                functional(model.generate("a fox", noise, steps=STEPS, gradient=gradient)), [noise]
            )
        )
    assert relative_error(gradients[1], gradients[0]) < 1e-4


def test_frozen_networks_get_no_gradients_and_no_grad_keeps_no_graph(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.requires_grad_(False)
    model = adj.from_pipeline(pipe)
    noise = model.noise(1, seed=0).requires_grad_()
    model.generate("a fox", noise, steps=2).sum().backward()
    assert noise.grad is not None
    assert all(
        p.grad is None
        for module in (pipe.unet, pipe.vae, pipe.text_encoder)
        for p in module.parameters()
    )
    with torch.no_grad():
        assert not model.generate("a fox", noise, steps=2).requires_grad
