"""Learn a LoRA that gives pictures the style of one reference picture.

Run: python examples/learn_lora.py STYLE.png. It loads in stock diffusers with load_lora_weights.
"""

import argparse
from pathlib import Path

import torch

import adjointdpm as adj
from adjointdpm.metrics import GramStyle, structure_distance
from adjointdpm.variables import LoRA

PROMPTS = ["a noto emoji of a frog", "a fluent emoji of a parrot", "a twemoji emoji of a cat"]


def main() -> None:
    """Learn from three prompts; the drawing is held in place by a second term of the loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("style", help="the reference picture")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("runs/examples/lora"))
    args = parser.parse_args()

    model = adj.load("tiny")
    for network in (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder):
        network.requires_grad_(False)
    metric = GramStyle(args.style)

    def draw(seed: int) -> torch.Tensor:
        noise = model.noise(len(PROMPTS), seed)
        return model.generate(PROMPTS, noise, steps=args.steps, guidance_scale=5.0)

    with LoRA(model.pipe, rank=8) as lora:
        optimizer = torch.optim.Adam(lora.tensors().values(), lr=1e-2)
        for iteration in range(args.iterations):
            optimizer.zero_grad()
            with torch.no_grad(), lora.disabled():
                plain = draw(seed=iteration)  # what the untouched model draws
            images = draw(seed=iteration)
            style = metric(images).mean()
            drawing = structure_distance(images, plain).mean()
            (style + 0.2 * drawing).backward()
            optimizer.step()
            print(f"iteration {iteration + 1}: style {style:.3f}, drawing {drawing:.3f}")
        args.out.mkdir(parents=True, exist_ok=True)
        print(f"wrote {lora.save(args.out)}")


if __name__ == "__main__":
    main()
