"""From a user's own picture to initial noise, as the start of an optimisation."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine import grids
from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.engine.inversion import invert_euler, invert_reversible
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.samplers import Euler, ReversibleEuler, Sampler
from adjointdpm.errors import InvalidInputError, ShapeError, UnsupportedError
from adjointdpm.pipelines import schedulers
from adjointdpm.pipelines.any_pipeline import check_family
from adjointdpm.pipelines.checks import check_tensor
from adjointdpm.pipelines.examples import expand_batch
from adjointdpm.pipelines.native_samplers import equivalent, schedule_and_prediction

RANGE = 1.0  # how far a model's own unclamped pictures may lie outside of [0, 1]


@torch.no_grad()
def invert(
    model: Any,
    images: Float[Tensor, "batch 3 height width"],
    prompt: str,
    *,
    steps: int = 50,
    guidance_scale: float = 1.0,
) -> Float[Tensor, "batch channel latent_height latent_width"]:
    """Find the noise from which the pipeline's own scheduler draws the pictures again.

    They come back as well as the pipeline's autoencoder can draw them.

    Args:
        model: what `adjointdpm.load` returns, with a scheduler that equals `Euler` (DDIM).
        images: in [0, 1], of a size that the autoencoder takes.
        prompt: what they show. Draw them again with the same prompt, steps and guidance.
        steps: as `generate` takes it.
        guidance_scale: as `generate` takes it. Strong guidance makes inversion harder, and may make
            it impossible.

    Returns:
        Noise `[B, C, H, W]` of about unit variance.

    Raises:
        InvalidTypeError, InvalidInputError: the pictures are no tensor, or not in [0, 1].
        ShapeError: the pictures' size is no multiple of the autoencoder's factor.
        UnsupportedError: the scheduler is not DDIM's rule, or the pipeline's class has no family.
        ReversalError: a step cannot be inverted.

    """
    check_family(model, "invert")
    latents = encode_pictures(model, images)
    scheduler = schedulers.start(model.pipe.scheduler, steps, model.device)
    found = equivalent(scheduler)
    if isinstance(found, str) or not isinstance(found[0], Euler):
        why = f" ({found})" if isinstance(found, str) else ""
        raise UnsupportedError(
            f"only DDIM's steps can be inverted, not those of {type(scheduler).__name__}{why}; "
            "set pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, "
            "clip_sample=False, set_alpha_to_one=False), and for the command line save the "
            "pipeline with it"
        )
    sampler, grid = found
    return invert_euler(_problem(model, scheduler, sampler, grid, latents, prompt, guidance_scale))


@torch.no_grad()
def invert_exactly(
    model: Any,
    images: Float[Tensor, "batch 3 height width"],
    prompt: str,
    *,
    steps: int = 50,
    guidance_scale: float = 1.0,
    coupling: float = 0.95,
) -> tuple[Float[Tensor, "batch channel latent_height latent_width"], ReversibleEuler]:
    """Find the noise and the sampler with which the model draws the pictures again to rounding.

    `model.generate(prompt, noise, steps=steps, guidance_scale=guidance_scale, sampler=sampler)`
    draws them, as the autoencoder makes them, with any gradient method (`Reversible` too). No step
    is iterated, so strong guidance is no obstacle, but stock diffusers does not have this sampler.
    The states are in float64, whatever the network's dtype: every step multiplies rounding errors
    by 1/coupling, and float64 costs no network time. It takes 2N network calls, and 2N to check.

    Args:
        model: what `adjointdpm.load` returns.
        images: in [0, 1], of a size that the autoencoder takes.
        prompt: what they show.
        steps: N, as `generate` takes it.
        guidance_scale: as `generate` takes it.
        coupling: of `ReversibleEuler`.

    Returns:
        The noise `[B, C, H, W]` in float64, and the sampler. The noise is as likely as the picture
        is under the model, so its standard deviation may be far from 1.

    Raises:
        InvalidTypeError, InvalidInputError: the pictures are no tensor, or not in [0, 1].
        ShapeError: the pictures' size is no multiple of the autoencoder's factor.
        ReversalError: the pictures that come back are different ones.

    """
    check_family(model, "invert_exactly")
    scheduler = schedulers.start(model.pipe.scheduler, steps, model.device)
    schedule, _ = schedule_and_prediction(scheduler)
    problem = _problem(
        model,
        scheduler,
        ReversibleEuler(coupling),
        grids.karras(schedule, steps),
        encode_pictures(model, images),
        prompt,
        guidance_scale,
    )
    start, sampler = invert_reversible(problem)
    return start / schedule.initial_scale, sampler


def encode_pictures(model: Any, images: Tensor) -> Tensor:
    """The latents of pictures in [0, 1]."""
    factor = model.pipe.vae_scale_factor
    check_tensor(
        images,
        "images",
        ("B", 3, "H", "W"),
        images.device if isinstance(images, Tensor) else model.device,
    )
    if images.amin() < -RANGE or images.amax() > 1 + RANGE:
        raise InvalidInputError(
            f"images hold values from {images.amin().item():.3g} to {images.amax().item():.3g}; "
            f"pictures to invert are in [0, 1]"
        )
    if images.shape[2] % factor or images.shape[3] % factor:
        raise ShapeError(
            f"pictures to invert have the shape [B, 3, H, W], H and W multiples of {factor}, not "
            f"{tuple(images.shape)}"
        )
    vae = model.pipe.vae
    pixels = (2 * images - 1).to(model.device, vae.dtype)
    encoded = vae.encode(pixels)  # a small autoencoder gives latents, others a distribution
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return (latents * vae.config.scaling_factor).to(torch.promote_types(torch.float32, vae.dtype))


def _problem(
    model: Any,
    scheduler: Any,
    sampler: Sampler,
    grid: Tensor,
    latents: Tensor,
    prompt: str,
    guidance_scale: float,
) -> Problem:
    cond, null_cond, scale = model.conditioning(
        expand_batch(model.encode(prompt), len(latents)), None, guidance_scale
    )
    schedule, prediction = schedule_and_prediction(scheduler)
    denoiser = Denoiser(model.network, prediction, scale, null_cond)
    return Problem(
        denoiser, schedule, sampler, sampler.plan(schedule, grid), latents, cond, denoiser.null_cond
    )
