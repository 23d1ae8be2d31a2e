# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers annotates tuples and outputs too narrowly for its own documented use)
"""Train the bundled model's autoencoder on random crops: `python -m training.vae --minutes 10`."""

import time
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL
from torch import Tensor

from training.data import WORK
from training.steps import set_rate, signed, take_step, update_average

CROP = 32


def build() -> AutoencoderKL:
    """An AutoencoderKL from 64×64×3 to 16×16×4, 0.65 M parameters."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def gradients(images: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical differences: what an L1 loss on them keeps sharp are edges."""
    return images.diff(dim=-1), images.diff(dim=-2)


def fold_statistics(vae: AutoencoderKL, images: Tensor) -> None:
    """Scale the latents to zero mean and unit variance per channel.

    This is done inside quant_conv and post_quant_conv, so that `scaling_factor` is 1.
    """
    with torch.no_grad():
        means = torch.cat([vae.encode(batch).latent_dist.mean for batch in images.split(64)])
        mean, std = means.mean((0, 2, 3)), means.std((0, 2, 3))
        quant, post = vae.quant_conv, vae.post_quant_conv
        assert quant is not None
        assert post is not None
        assert quant.bias is not None
        assert post.bias is not None
        quant.weight[:4] /= std[:, None, None, None]
        quant.bias[:4] = (quant.bias[:4] - mean) / std
        quant.bias[4:] -= 2 * std.log()  # the log-variances scale along
        post.bias += (post.weight[:, :, 0, 0] * mean).sum(1)
        post.weight *= std[None, :, None, None]


def main(minutes: Annotated[float, typer.Option()] = 10.0, batch: int = 16, seed: int = 0) -> None:
    """Train by the clock and save the averaged weights to `work/vae`.

    The learning rate falls linearly to zero.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(seed)
    images = np.load(WORK / "pool.npz")["images"]
    vae = build()
    average = {k: v.clone() for k, v in vae.state_dict().items()}
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4)
    start, step, progress = time.time(), 0, 0.0
    while (progress := (time.time() - start) / (60 * minutes)) < 1:
        set_rate(optimizer, 2e-3 * (1 - progress) * min(1.0, (step + 1) / 100))
        picks = rng.integers(len(images), size=batch)
        corners = 4 * rng.integers((64 - CROP) // 4 + 1, size=(batch, 2))
        crops = np.stack(
            [
                images[i, y : y + CROP, x : x + CROP]
                for i, (y, x) in zip(picks, corners, strict=True)
            ]
        )
        x = signed(crops)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        edges = sum(F.l1_loss(a, b) for a, b in zip(gradients(y), gradients(x), strict=True))
        loss = F.l1_loss(y, x) + 0.5 * edges + 1e-4 * posterior.kl().mean() / (CROP * CROP / 16)
        take_step(optimizer, loss)
        update_average(average.values(), vae.state_dict().values(), step)
        step += 1
        if step % 250 == 0:
            print(f"{progress:5.1%} step {step} loss {loss.item():.4f}", flush=True)
    vae.load_state_dict(average)
    vae.eval()
    whole = signed(images[rng.permutation(len(images))[:1024]])
    fold_statistics(vae, whole[:512])
    with torch.no_grad():
        latents = vae.encode(whole[512:]).latent_dist.mean
        print(
            f"{step} steps; reconstruction L1 in [-1, 1]: "
            f"{F.l1_loss(vae.decode(latents).sample, whole[512:]).item():.4f}"
        )
        print(
            f"latent mean {latents.mean((0, 2, 3)).tolist()}, std {latents.std((0, 2, 3)).tolist()}"
        )
    vae.save_pretrained(WORK / "vae")


if __name__ == "__main__":
    typer.run(main)
