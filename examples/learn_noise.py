"""Move the initial noise of one picture until a metric likes it.

Run: python examples/learn_noise.py. No weight of the model changes.
"""

import argparse
from pathlib import Path

import torch
from diffusers.utils import numpy_to_pil

import adjointdpm as adj
from adjointdpm.metrics import resolve


def main() -> None:
    """Optimise, and write the pictures on the way as one strip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompt", default="a noto emoji of a red apple")
    parser.add_argument("--metric", default="color:mood=golden_hour")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=Path("runs/examples/noise"))
    args = parser.parse_args()

    model, metric = adj.load("tiny"), resolve(args.metric)
    for network in (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder):
        network.requires_grad_(False)
    noise = model.noise(batch=1, seed=0).requires_grad_()
    length = noise.detach().norm()
    optimizer = torch.optim.Adam([noise], lr=args.lr)
    pictures = []
    for iteration in range(args.iterations + 1):
        images = model.generate(args.prompt, noise, steps=args.steps, guidance_scale=5.0)
        pictures.append(images.detach())
        loss = metric(images).sum()
        print(f"iteration {iteration}: {loss.item():.3f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():  # real noise has this length; other lengths give flat pictures
            noise.mul_(length / noise.norm())

    args.out.mkdir(parents=True, exist_ok=True)
    strip = torch.cat(pictures[::3], dim=-1)  # side by side, every third
    numpy_to_pil(strip.clamp(0, 1).permute(0, 2, 3, 1).numpy())[0].save(
        args.out / "learn-noise.png"
    )
    print(f"wrote {args.out / 'learn-noise.png'}")


if __name__ == "__main__":
    main()
