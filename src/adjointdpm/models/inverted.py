"""A user's own picture as initial noise, so that it can be the start of an optimisation."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.denoiser import Denoiser
from adjointdpm.errors import ShapeError, UnsupportedError
from adjointdpm.inversion import invert_euler
from adjointdpm.models import schedulers
from adjointdpm.models.native import native_equivalent, schedule_and_prediction
from adjointdpm.problem import Problem
from adjointdpm.samplers import Euler


@torch.no_grad()
def invert(
    model: Any, images: Float[Tensor, "batch 3 height width"], prompt: str, *, steps: int = 50, guidance_scale: float = 1.0
) -> Float[Tensor, "batch channel height width"]:
    """The noise from which the pipeline's own scheduler makes the pictures again, as far as its autoencoder can draw them.

    Args:
        model: what `adjointdpm.load` returns, with a scheduler that equals `Euler` (DDIM).
        images: in [0, 1], of a size that the autoencoder takes.
        prompt: what they show; the same one is needed to draw them again, with the same steps and guidance.
        steps, guidance_scale: as `generate` takes them. Strong guidance makes inversion harder, and may make it impossible.

    Returns:
        About unit variance.

    Raises:
        ShapeError: the pictures' size is no multiple of the autoencoder's factor.
        UnsupportedError: the scheduler is not DDIM's rule.
        ReversalError: a step cannot be inverted.

    """
    factor = model.pipe.vae_scale_factor
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % factor or images.shape[3] % factor:
        raise ShapeError(f"pictures to invert have the shape [B, 3, H, W], H and W multiples of {factor}, not {tuple(images.shape)}")
    scheduler = schedulers.start(model.pipe.scheduler, steps, model.device)
    sampler, grid = native_equivalent(scheduler)
    if not isinstance(sampler, Euler):
        raise UnsupportedError(
            f"only DDIM's steps can be inverted, not those of {type(scheduler).__name__}; give the pipeline a DDIMScheduler"
        )
    vae = model.pipe.vae
    pixels = (2 * images - 1).to(model.device, vae.dtype)
    latents = (vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor).to(torch.promote_types(torch.float32, vae.dtype))
    cond, null_cond, scale = model.conditioning(model.encode(prompt).expand(len(images), -1, -1), None, guidance_scale)
    schedule, prediction = schedule_and_prediction(scheduler)
    denoiser = Denoiser(model.network, prediction, scale, null_cond)
    return invert_euler(Problem(denoiser, schedule, sampler, sampler.plan(schedule, grid), latents, cond, denoiser.null_cond))
