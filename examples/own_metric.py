"""Two metrics of your own, in Python and by file name.

Run: python examples/own_metric.py. On the command line: adjointdpm guide --prompt "an owl"
--metric examples/own_metric.py:symmetry
"""

import argparse
from collections.abc import Sequence

import torch

import adjointdpm as adj
from adjointdpm.metrics import probe, resolve

BACKGROUND = {"night": 0.1, "day": 0.9}


def symmetry(images: torch.Tensor) -> torch.Tensor:
    """How unlike its mirror image each picture is."""
    return (images - images.flip(-1)).square().mean((1, 2, 3))


def brightness(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """How far each picture's brightness is from what its prompt asks for."""
    wanted = [next((v for k, v in BACKGROUND.items() if k in p), 0.5) for p in prompts]
    return (images.mean((1, 2, 3)) - images.new_tensor(wanted)).square()


def main() -> None:
    """Check both metrics, then ask for the gradient of a picture's symmetry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()

    model = adj.load("tiny")
    prompts = ["a noto emoji of a cat at night", "a noto emoji of a cat by day"]
    noise = model.noise(batch=2, seed=0).requires_grad_()
    images = model.generate(prompts, noise, steps=args.steps, guidance_scale=5.0)
    for function in (symmetry, brightness):
        metric = resolve(function)
        probe(metric)  # an error here says why a metric could teach nothing
        scores = metric(images, prompts)
        (gradient,) = torch.autograd.grad(scores.sum(), noise, retain_graph=True)
        size = gradient.flatten(1).norm(dim=1)
        for i, prompt in enumerate(prompts):
            print(f"{metric.name}, {prompt}: {scores[i]:.3f}, gradient's norm {size[i]:.3f}")


if __name__ == "__main__":
    main()
