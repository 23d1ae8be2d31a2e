"""Learn a word for a colour mood, from a metric alone.

Run: python examples/learn_token.py. It loads in stock diffusers with load_textual_inversion.
"""

import argparse
from pathlib import Path

import torch

import adjointdpm as adj
from adjointdpm.metrics import resolve
from adjointdpm.variables import TokenEmbedding

SUBJECTS = ["a noto emoji of a frog", "a twemoji emoji of a bear", "a fluent emoji of a penguin"]
SENTENCE = "{} on a <dusk> background"


def main() -> None:
    """Learn, and print the metric on a subject that was not learned from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("runs/examples/token"))
    args = parser.parse_args()

    model = adj.load("tiny")
    model.pipe.unet.requires_grad_(False)  # only the word is learned
    model.pipe.vae.requires_grad_(False)
    model.pipe.text_encoder.requires_grad_(False)
    metric = resolve("color:mood=dusk")  # lower is better

    def draw(subjects: list[str], seed: int) -> torch.Tensor:
        prompts = [SENTENCE.format(subject) for subject in subjects]
        noise = model.noise(len(prompts), seed)
        return model.generate(prompts, noise, steps=args.steps, guidance_scale=5.0)

    def score_unseen() -> float:
        with torch.no_grad():
            return metric(draw(["a noto emoji of an owl"], seed=100)).mean().item()

    with TokenEmbedding(model.pipe, "<dusk>", initial="gray") as token:
        before = score_unseen()
        optimizer = torch.optim.Adam(token.tensors().values(), lr=0.05)
        for iteration in range(args.iterations):
            optimizer.zero_grad()
            loss = metric(draw(SUBJECTS[:2], seed=iteration)).mean()
            loss.backward()  # through all sampler steps
            optimizer.step()
            token.project()  # keeps the vector as short as the vocabulary's own
            print(f"iteration {iteration + 1}: {loss.item():.3f}")
        print(f"on an owl, never learned from: {before:.3f} before, {score_unseen():.3f} after")
        args.out.mkdir(parents=True, exist_ok=True)
        print(f"wrote {token.save(args.out)}")


if __name__ == "__main__":
    main()
