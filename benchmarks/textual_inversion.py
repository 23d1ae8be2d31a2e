"""Textual inversion: a token learned from pictures, by the denoising loss.

It is done as it was published (Gal et al. 2022, arXiv 2208.01618).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.variables import TokenEmbedding

BATCH = 8
RATE = 0.01


@dataclass
class Learned:
    """What a run did: its steps, its seconds, and the loss of every step."""

    steps: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)


@torch.no_grad()
def encode_pictures(
    model: DiffusionModel, images: Float[Tensor, "B 3 H W"]
) -> Float[Tensor, "B C h w"]:
    """Scaled latents (the encoder's means) of pictures in [0, 1]."""
    vae: Any = model.pipe.vae
    pixels = (2 * images - 1).to(model.device, vae.dtype)
    return (
        torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(16)])
        * vae.config.scaling_factor
    )


def denoising_loss(
    model: DiffusionModel,
    captions: Sequence[str],
    latents: Float[Tensor, "B C h w"],
    timesteps: Int[Tensor, " B"],
    noise: Float[Tensor, "B C h w"],
) -> Float[Tensor, ""]:
    """Mean squared error of the network's prediction at random noise levels.

    This is the loss that the model itself was trained with.

    Call it inside the context of the token that the captions use: the gradient reaches its vectors.
    """
    scheduler = model.pipe.scheduler
    targets = {
        "epsilon": lambda: noise,
        "sample": lambda: latents,
        "v_prediction": lambda: scheduler.get_velocity(latents, noise, timesteps),
    }
    cond, _, _ = model.conditioning(model.encode(captions), None, 1.0)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    prediction = model.network(noisy, timesteps.float(), cond)  # networks take times as floats
    return F.mse_loss(prediction, targets[scheduler.config.prediction_type]())


def learn_from_pictures(
    model: DiffusionModel,
    token: TokenEmbedding,
    captions: Sequence[str],
    latents: Float[Tensor, "B C h w"],
    *,
    seconds: float,
    steps: int | None = None,
    batch: int = BATCH,
    rate: float = RATE,
    seed: int = 0,
) -> Learned:
    """Train the token until `seconds` have passed, or until `steps` are done if they are given.

    The learning rate falls linearly to zero.

    One noise level comes out of every stretch of the schedule in each batch, which makes the loss
    less noisy and leaves its mean as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam([token.vectors], lr=rate)
    levels, done, started = (
        model.pipe.scheduler.config.num_train_timesteps,
        Learned(),
        time.perf_counter(),
    )
    while True:
        done.seconds = time.perf_counter() - started
        progress = done.steps / steps if steps is not None else done.seconds / seconds
        if progress >= 1:
            return done
        adam.param_groups[0]["lr"] = rate * (1 - progress)
        picks = torch.randint(len(latents), (batch,), generator=generator)
        timesteps = (
            (levels * (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch)
            .long()
            .to(latents.device)
        )
        noise = torch.randn(batch, *latents.shape[1:], generator=generator).to(latents)
        loss = denoising_loss(
            model, [captions[int(i)] for i in picks], latents[picks], timesteps, noise
        )
        (token.vectors.grad,) = torch.autograd.grad(loss, [token.vectors])
        adam.step()
        token.project()
        done.steps += 1
        done.losses.append(loss.item())
