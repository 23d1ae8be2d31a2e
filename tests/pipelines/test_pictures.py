"""The pictures of `generate` are those of the stock pipeline, for every scheduler that diffusers
offers for it.
"""

import importlib
import importlib.util
import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch

import adjointdpm as adj
from adjointdpm.pipelines import from_pipeline
from helpers.schedulers import scheduler_with_torchsde
from helpers.tiny_pipelines import STABLE_DIFFUSION_BETAS, tiny_pipeline

# scipy is an optional dependency of diffusers, which these need.
SCIPY = importlib.util.find_spec("scipy") is not None
LEFT_OUT = set() if SCIPY else {"LMSDiscreteScheduler"}


COMPATIBLE = {c.__name__: c for c in diffusers.DDIMScheduler().compatibles} | {
    "DPMSolverSDEScheduler": scheduler_with_torchsde()
}
SCHEDULERS = [COMPATIBLE[name] for name in sorted(COMPATIBLE) if name not in LEFT_OUT]
# What StableDiffusionPipeline runs with besides those that it lists: distilled models and the
# parallel variants.
SCHEDULERS += [
    diffusers.LCMScheduler,
    diffusers.TCDScheduler,
    diffusers.DDIMParallelScheduler,
    diffusers.SASolverScheduler,
]


def configurations(scheduler: type) -> Iterator[dict[str, Any]]:
    """Every spacing, offset and end of the table with one of the predictions in turn, then every
    other option on its own.
    """
    known = inspect.signature(scheduler.__init__).parameters
    predictions: list[dict[str, Any]] = [
        {"prediction_type": "epsilon"},
        {"prediction_type": "v_prediction"},
    ]
    if "rescale_betas_zero_snr" in known:
        predictions.append({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True})
    axes = {
        "timestep_spacing": ["leading", "trailing", "linspace"],
        "steps_offset": [0, 1],
        "set_alpha_to_one": [False, True],
    }
    axes = {name: values for name, values in axes.items() if name in known}
    turns = itertools.cycle(predictions)
    for values, prediction in zip(itertools.product(*axes.values()), turns, strict=False):
        yield {**dict(zip(axes, values, strict=True)), **prediction}
    others: list[dict[str, Any]] = [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"final_sigmas_type": "sigma_min"},
        {"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "sigma_min"},
        {"solver_order": 3, "final_sigmas_type": "sigma_min"},
        {"skip_prk_steps": True},
        {"use_lu_lambdas": True},
        {"euler_at_final": True},
        {"thresholding": True},
    ]
    if SCIPY:
        others.append({"use_beta_sigmas": True})
    yield from (other for other in others if set(other) <= set(known))


def build(scheduler: type, config: dict[str, Any]) -> Any:
    known = inspect.signature(scheduler.__init__).parameters
    base = {**STABLE_DIFFUSION_BETAS, "clip_sample": False, "noise_sampler_seed": 3}
    return scheduler(**{name: value for name, value in base.items() if name in known} | config)


@pytest.mark.filterwarnings(
    "ignore::adjointdpm.errors.AdjointDPMWarning", "ignore::DeprecationWarning"
)
@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda c: c.__name__)
def test_every_scheduler_makes_the_stock_picture(scheduler, tmp_path):
    small = {
        "block_out_channels": (16,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    }
    pipe = tiny_pipeline(tmp_path, unet={**small, "mid_block_type": None})
    pictures = {}
    for config in configurations(scheduler):
        pipe.scheduler = build(scheduler, config)
        model = from_pipeline(pipe)
        noise = model.noise(1, seed=1)
        with torch.no_grad():
            ours = model.generate(
                "a red fox",
                noise,
                steps=4,
                guidance_scale=3.0,
                generator=torch.Generator().manual_seed(7),
            )
        theirs = stock(
            pipe,
            "a red fox",
            noise,
            4,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(7),
        )
        assert (ours.clamp(0, 1) - theirs).abs().max() < 1e-4, config
        # The comparison says something: the picture is not all black or white, and depends on the
        # configuration.
        assert ((ours > 0) & (ours < 1)).float().mean() > 0.5, config
        pictures[str(config)] = ours
    # Distilled models have timesteps of their own whatever the spacing: three pictures for three
    # predictions.
    least = (
        3 if scheduler in (diffusers.LCMScheduler, diffusers.TCDScheduler) else len(pictures) / 2
    )
    assert len(torch.stack(list(pictures.values())).flatten(1).unique(dim=0)) >= least


def stock(
    pipe: Any, prompt: Any, noise: torch.Tensor, steps: int, **arguments: Any
) -> torch.Tensor:
    """The pipeline itself, called as its users call it."""
    return pipe(
        prompt, latents=noise, num_inference_steps=steps, output_type="pt", **arguments
    ).images


def assert_same_picture(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours.detach().clamp(0, 1), theirs, atol=1e-4, rtol=0)


def test_the_defaults_are_those_of_the_pipeline(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    model = from_pipeline(pipe)
    noise = model.noise(1, seed=3)
    with torch.no_grad():
        assert_same_picture(
            model.generate("a red fox", noise),
            pipe("a red fox", latents=noise, output_type="pt").images,
        )


@pytest.mark.parametrize("guidance", [0.5, 1.0, 4.0])
def test_prompts_are_handled_as_in_the_pipeline(guidance, tmp_path):
    pipe = tiny_pipeline(tmp_path)
    model = from_pipeline(pipe)
    noise = model.noise(2, seed=0)
    prompts, negatives = ["a red fox", "an owl far too long for this tokenizer"], ["blue", "star"]
    with torch.no_grad():
        embeds, other = (model.encode(texts)["prompt_embeds"] for texts in (prompts, negatives))
        short = embeds[:, :5]  # the unconditional prompt is padded to the embeddings' length
        arguments: list[tuple[Any, dict[str, Any], Any, dict[str, Any]]] = [
            (prompts, {"negative_prompt": negatives}, prompts, {"negative_prompt": negatives}),
            (
                "a red fox",
                {"negative_prompt": "blue"},
                ["a red fox"] * 2,
                {"negative_prompt": ["blue"] * 2},
            ),
            (prompts, {"negative_prompt": "blue"}, prompts, {"negative_prompt": ["blue"] * 2}),
            (None, {"prompt_embeds": embeds}, None, {"prompt_embeds": embeds}),
            (None, {"prompt_embeds": short}, None, {"prompt_embeds": short}),
            (
                prompts,
                {"negative_prompt_embeds": other},
                prompts,
                {"negative_prompt_embeds": other},
            ),
        ]
        for prompt, ours, stock_prompt, theirs in arguments:
            picture = model.generate(prompt, noise, steps=3, guidance_scale=guidance, **ours)
            assert_same_picture(
                picture, stock(pipe, stock_prompt, noise, 3, guidance_scale=guidance, **theirs)
            )


def test_a_unet_distilled_for_guidance_gets_the_scale_as_input(tmp_path):
    pipe = tiny_pipeline(tmp_path, unet={"time_cond_proj_dim": 8})
    model = from_pipeline(pipe)
    noise = model.noise(2, seed=0)
    with torch.no_grad():
        pictures = [
            model.generate("a red fox", noise, steps=3, guidance_scale=w) for w in (2.0, 7.0)
        ]
    assert not torch.equal(*pictures)
    assert_same_picture(pictures[1], stock(pipe, ["a red fox"] * 2, noise, 3, guidance_scale=7.0))


def test_other_sizes_than_the_default(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    noise = torch.randn(1, 4, 12, 6)
    with torch.no_grad():
        assert_same_picture(
            from_pipeline(pipe).generate("a fox", noise, steps=2), stock(pipe, "a fox", noise, 2)
        )


def test_the_pipeline_is_left_as_it_was(tmp_path):
    pipe = tiny_pipeline(tmp_path, diffusers.UniPCMultistepScheduler(**STABLE_DIFFUSION_BETAS))
    pipe.scheduler.set_timesteps(7)
    before = {name: repr(value) for name, value in vars(pipe.scheduler).items()}
    needs_grad = [p.requires_grad for p in pipe.unet.parameters()]
    from_pipeline(pipe).generate("a fox", steps=4)
    assert {name: repr(value) for name, value in vars(pipe.scheduler).items()} == before
    assert [p.requires_grad for p in pipe.unet.parameters()] == needs_grad


def test_a_scheduler_that_holds_a_differentiable_run_can_be_used(tmp_path):
    pipe = tiny_pipeline(tmp_path, diffusers.DPMSolverMultistepScheduler(**STABLE_DIFFUSION_BETAS))
    model = from_pipeline(pipe)
    noise = model.noise(1, seed=0)
    theirs = (
        type(pipe)
        .__call__.__wrapped__(pipe, "a fox", latents=noise, num_inference_steps=3, output_type="pt")
        .images
    )
    assert pipe.scheduler.model_outputs[0].requires_grad
    assert_same_picture(model.generate("a fox", noise, steps=3), theirs.detach())


def test_a_scheduler_that_is_exchanged_counts_from_the_next_call(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    model = from_pipeline(pipe)
    noise = model.noise(1, seed=0)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with torch.no_grad():
        assert_same_picture(model.generate("a fox", noise, steps=3), stock(pipe, "a fox", noise, 3))


def test_a_stochastic_scheduler_repeats_itself_whatever_the_batch(tmp_path):
    pipe = tiny_pipeline(
        tmp_path, diffusers.EulerAncestralDiscreteScheduler(**STABLE_DIFFUSION_BETAS)
    )
    model = from_pipeline(pipe)
    noise = model.noise(3, seed=0)
    with torch.no_grad():
        one, again, alone = (model.generate("a fox", x, steps=4) for x in (noise, noise, noise[:2]))
    assert torch.equal(one, again)
    torch.testing.assert_close(one[:2], alone)


def test_noise_depends_on_seed_and_index_alone(tmp_path):
    model = from_pipeline(tiny_pipeline(tmp_path))
    noise = model.noise(5, seed=11)
    assert noise.shape == (5, 4, 8, 8)
    assert torch.equal(noise[:2], model.noise(2, seed=11))
    assert torch.equal(noise[3:], model.noise(2, seed=11, offset=3))
    assert not torch.equal(noise, model.noise(5, seed=12))
    many = model.noise(200, seed=0)
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02


def test_without_noise_it_is_that_of_seed_0(tmp_path):
    model = from_pipeline(tiny_pipeline(tmp_path))
    with torch.no_grad():
        assert torch.equal(
            model.generate(["a fox", "an owl"], steps=2),
            model.generate(["a fox", "an owl"], model.noise(2, seed=0), steps=2),
        )


def test_half_precision_networks_keep_a_float32_state(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    model = from_pipeline(pipe)
    noise = model.noise(1, seed=0)
    with torch.no_grad():
        full = model.generate("a red fox", noise, steps=4)
        pipe.to(torch.bfloat16)
        half = model.generate("a red fox", noise, steps=4)
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "halved", [("unet", "vae", "text_encoder"), ("unet",), ("text_encoder",), ("vae",)]
)
def test_parts_of_the_pipeline_may_have_different_precisions(halved, dtype, tmp_path):
    pipe = tiny_pipeline(tmp_path)
    model = from_pipeline(pipe)
    noise = model.noise(2, seed=0)
    prompts = ["a red fox", "an owl"]
    with torch.no_grad():
        full = model.generate(prompts, noise, steps=4)
        for part in halved:
            getattr(pipe, part).to(dtype)
        for sampler in (None, "euler"):
            assert (
                model.generate(prompts, noise, steps=4, sampler=sampler) - full
            ).abs().max() < 0.3
        # The pipeline itself takes nothing else; with its dtype of noise the picture is its own.
        if len(halved) == 3:
            theirs = stock(pipe, prompts, noise.to(dtype), 4)
            torch.testing.assert_close(
                model.generate(prompts, noise.to(dtype), steps=4).clamp(0, 1), theirs
            )
    noise.requires_grad_()
    for gradient in ("exact", "adjoint", adj.Interpolated(2)):
        (found,) = torch.autograd.grad(
            model.generate(prompts, noise, steps=4, gradient=gradient).sum(), noise
        )
        assert found.dtype == torch.float32
        assert found.isfinite().all()


NATIVE = [
    (diffusers.DDIMScheduler, {"set_alpha_to_one": False, "steps_offset": 1}),
    (diffusers.DDIMScheduler, {"set_alpha_to_one": False, "timestep_spacing": "trailing"}),
    (
        diffusers.DDIMScheduler,
        {
            "set_alpha_to_one": False,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
        },
    ),
    (
        diffusers.EulerDiscreteScheduler,
        {"timestep_spacing": "leading", "final_sigmas_type": "sigma_min", "steps_offset": 1},
    ),
    (
        diffusers.DPMSolverMultistepScheduler,
        {"final_sigmas_type": "sigma_min", "timestep_spacing": "leading", "steps_offset": 1},
    ),
    (diffusers.DPMSolverMultistepScheduler, {"final_sigmas_type": "sigma_min", "solver_order": 1}),
]


@pytest.mark.parametrize(("scheduler", "config"), NATIVE)
@pytest.mark.parametrize("steps", [4, 20])
def test_native_samplers_that_stand_in_for_a_scheduler_make_its_picture(
    scheduler, config, steps, tmp_path
):
    pipe = tiny_pipeline(tmp_path)
    pipe.scheduler = build(scheduler, config)  # the pipeline's constructor would set steps_offset=1
    model = from_pipeline(pipe)
    noise = model.noise(1, seed=0)
    ours = model.generate(
        "a red fox", noise, steps=steps, gradient=adj.Adjoint(states="stored", sampler=adj.Euler())
    )
    assert_same_picture(ours, stock(pipe, "a red fox", noise, steps))


def test_a_native_sampler_runs_on_its_own_grid(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    model = from_pipeline(pipe)
    noise = model.noise(1, seed=0)
    embeds, null = (model.encode(text)["prompt_embeds"] for text in ("a red fox", ""))
    schedule = adj.NoiseSchedule.from_scheduler(pipe.scheduler)

    def guided(x, t, cond):
        null_out, out = (pipe.unet(x, t, encoder_hidden_states=c).sample for c in (null, cond))
        return null_out + 3.0 * (out - null_out)

    with torch.no_grad():
        ours = model.generate("a red fox", noise, steps=4, guidance_scale=3.0, sampler=adj.Heun())
        latents = adj.sample(
            guided, noise, schedule=schedule, cond=embeds, steps=4, sampler=adj.Heun()
        )
        torch.testing.assert_close(ours, model.decode(latents), atol=1e-5, rtol=1e-5)


def test_what_encode_returns_can_be_passed_on_by_name(tmp_path):
    pipe = tiny_pipeline(tmp_path)
    model = from_pipeline(pipe)
    noise = model.noise(1, seed=0)
    with torch.no_grad():
        encoded = model.encode("a red fox")
        assert encoded.keys() == {"prompt_embeds"}
        picture = model.generate(noise=noise, steps=3, **encoded)
        assert torch.equal(picture, model.generate("a red fox", noise, steps=3))
        assert_same_picture(picture, stock(pipe, None, noise, 3, **encoded))
