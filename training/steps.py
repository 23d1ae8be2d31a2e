"""What the training scripts share: pictures as tensors, steps of an optimiser, averaged weights."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, UInt8
from torch import Tensor, nn


def signed(images: UInt8[np.ndarray, "n height width 3"]) -> Float[Tensor, "n 3 height width"]:
    """Pictures in [-1, 1], as the autoencoder takes them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode(
    vae: AutoencoderKL, images: UInt8[np.ndarray, "n height width 3"]
) -> Float[Tensor, "n 4 h w"]:
    """Latent means of all pictures."""
    batches = (signed(images[i : i + 128]) for i in range(0, len(images), 128))
    return torch.cat([vae.encode(batch).latent_dist.mean for batch in batches])  # pyright: ignore[reportAttributeAccessIssue]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def take_step(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""]) -> None:
    """One step down the gradient, which is clipped to length 1."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def update_average(
    average: Iterable[Tensor], values: Iterable[Tensor], step: int, decay: float = 0.999
) -> None:
    """Move an average of weights towards their values; early on it forgets faster."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average), list(values), weight)


def forget_source(config: Path) -> None:
    """Remove the folder that a model was loaded from, which diffusers writes into its config."""
    facts = json.loads(config.read_text())
    facts.pop("_name_or_path", None)
    config.write_text(json.dumps(facts, indent=2) + "\n")
