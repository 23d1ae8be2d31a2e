"""Every figure of the model card, as JSON, and a grid of samples: `python -m training.evaluate`."""

import json
import random
from pathlib import Path

import numpy as np
import torch
import typer
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor

from adjointdpm.metrics.networks.judge import Judge
from training.concepts import BACKGROUNDS, STYLES, load_concepts, with_article
from training.data import VARIANTS, WORK
from training.export import TINY
from training.judges import HELD_OUT, accuracies, pictures
from training.steps import signed

GRID = Path(__file__).parents[1] / "docs" / "images" / "tiny-samples.png"


def generate(
    pipe: StableDiffusionPipeline, captions: list[str], noise: Tensor, steps: int, guidance: float
) -> Tensor:
    """Images [B, 3, 64, 64] in [0, 1].

    The scheduler is DDIM without added noise, so that the picture is a function of `noise`.
    """
    output = pipe(
        captions,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=noise,
        output_type="pt",
        return_dict=False,
    )
    return output[0].float()


def noise(count: int, seed: int) -> Tensor:
    """Initial latents [count, 4, 16, 16]."""
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def spread(images: Tensor) -> float:
    """Mean root-mean-square distance between pairs of pictures."""
    distances = torch.pdist(images.flatten(1)) / images[0].numel() ** 0.5
    return distances.mean().item()


def recognised(
    pipe: StableDiffusionPipeline, judge: Judge, steps: int, guidance: float, seed: int
) -> dict[str, float]:
    """The judge's verdicts on one picture of every familiar concept in every style."""
    names = [c.name for c in load_concepts() if c.familiar]
    pairs = [(n, s) for n in names for s in STYLES]
    captions = [f"a {s} emoji of {with_article(n)}" for n, s in pairs]
    images = generate(pipe, captions, noise(len(captions), seed), steps, guidance)
    concept, style = judge.concept_logits(images), judge.style_logits(images)
    truth = torch.tensor([judge.concepts.index(n) for n, _ in pairs])
    drawn = torch.tensor([judge.styles.index(s) for _, s in pairs])
    return {
        "captions": len(captions),
        "concept_classes": len(judge.concepts),
        "concept_top1": (concept.argmax(1) == truth).float().mean().item(),
        "concept_top5": (concept.topk(5).indices == truth[:, None]).any(1).float().mean().item(),
        "style_accuracy": (style.argmax(1) == drawn).float().mean().item(),
    }


def through_the_autoencoder(
    pipe: StableDiffusionPipeline, judge: Judge, count: int, seed: int
) -> dict[str, float]:
    """The judge's accuracy on real pictures after the autoencoder.

    A generator with perfect latents would get it.

    The pictures are placements of familiar concepts that the judge was not trained on.
    """
    concepts, pool = load_concepts(), np.load(WORK / "pool.npz")
    labels, images = pool["labels"].copy(), pool["images"]
    unseen = np.arange(len(labels)) % VARIANTS < HELD_OUT
    rows = np.flatnonzero(unseen & np.array([concepts[c].familiar for c in labels[:, 0]]))
    rows = np.random.default_rng(seed).permutation(rows)[:count]
    labels[rows, 0] = [judge.concepts.index(concepts[c].name) for c in labels[rows, 0]]
    labels[rows, 1] = [judge.styles.index(list(STYLES)[s]) for s in labels[rows, 1]]
    decoded = pipe.vae.decode(pipe.vae.encode(signed(images[rows])).latent_dist.mean).sample
    back = (decoded.div(2).add(0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return accuracies(judge, back, labels[rows])


def best_drawn(
    pipe: StableDiffusionPipeline, judge: Judge, steps: int, guidance: float, seeds: list[int]
) -> dict[str, float]:
    """Mean probability that the judge gives to the concept asked for, best first.

    The mean is over styles and seeds.
    """
    names = [c.name for c in load_concepts() if c.familiar]
    captions = [f"a {s} emoji of {with_article(n)}" for n in names for s in STYLES]
    truth = torch.tensor([judge.concepts.index(n) for n in names for _ in STYLES])
    found = []
    for seed in seeds:
        images = generate(pipe, captions, noise(len(captions), seed), steps, guidance)
        found.append(
            judge.concept_logits(images)
            .softmax(1)
            .gather(1, truth[:, None])
            .view(len(names), len(STYLES))
            .mean(1)
        )
    scores = torch.stack(found).mean(0).tolist()
    return dict(sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1]))


def diversity(
    pipe: StableDiffusionPipeline, captions: int, seeds: int, steps: int, guidance: float, seed: int
) -> dict[str, float]:
    """Spread over seeds against the spread of real pictures of the same caption.

    Beside it, the distance to the nearest training picture.
    """
    concepts, pool = load_concepts(), np.load(WORK / "pool.npz")
    labels, images = pool["labels"], pool["images"]
    # A caption without a background was trained on a mixture of backgrounds, in the share in which
    # it occurs.
    ratios, nearest, real_nearest = [], [], []
    chosen = random.Random(seed).sample([i for i, c in enumerate(concepts) if c.familiar], captions)
    for k, c in enumerate(chosen):
        s = k % len(STYLES)
        real = pictures(images[(labels[:, 0] == c) & (labels[:, 1] == s)])
        text = f"a {list(STYLES)[s]} emoji of {with_article(concepts[c].name)}"
        made = generate(pipe, [text] * seeds, noise(seeds, seed + k), steps, guidance)
        ratios.append(spread(made) / spread(real))
        scale = real[0].numel() ** 0.5
        nearest.append(
            torch.cdist(made.flatten(1), real.flatten(1)).div(scale).min(1).values.mean().item()
        )
        among = torch.cdist(real.flatten(1), real.flatten(1)).div(scale).fill_diagonal_(torch.inf)
        real_nearest.append(among.min(1).values.mean().item())
    return {
        "captions": captions,
        "seeds": seeds,
        "spread_relative_to_real": float(np.mean(ratios)),
        "spread_relative_to_real_min": min(ratios),
        "nearest_training_picture_rms": float(np.mean(nearest)),
        "nearest_training_picture_rms_between_real": float(np.mean(real_nearest)),
    }


def sensitivity(
    pipe: StableDiffusionPipeline,
    seeds: int,
    steps: int,
    guidance: float,
    seed: int,
    size: float = 0.05,
) -> dict[str, float]:
    """‖Δx₀‖ / ‖Δnoise‖ (latents to pixels) for a small step in a random direction, over seeds."""
    text = ["a noto emoji of a red apple"] * seeds
    start, direction = noise(seeds, seed), noise(seeds, seed + 1)
    direction *= size / direction.flatten(1).norm(dim=1)[:, None, None, None]
    # Both runs share a batch, so that the difference holds no rounding of another batch size.
    images = generate(pipe, text * 2, torch.cat([start, start + direction]), steps, guidance)
    change = (images[seeds:] - images[:seeds]).flatten(1).norm(dim=1) / size
    return {
        "seeds": seeds,
        "step": size,
        "mean": change.mean().item(),
        "std_over_seeds": change.std().item(),
        "min": change.min().item(),
        "max": change.max().item(),
    }


def grid(pipe: StableDiffusionPipeline, path: Path, steps: int, guidance: float, seed: int) -> None:
    """Draw sixteen familiar concepts, one column each.

    The rows are the three styles, a caption without a style, and one with a background.
    """
    rng = random.Random(seed)
    names = [with_article(c.name) for c in load_concepts() if c.familiar]
    names = names[:: max(1, len(names) // 16)][:16]
    rows = [[f"a {s} emoji of {n}" for n in names] for s in STYLES]
    rows.append(names)
    rows.append([f"{n} on a {rng.choice(list(BACKGROUNDS))} background" for n in names])
    captions = [text for row in rows for text in row]
    images = generate(pipe, captions, noise(len(captions), seed), steps, guidance)
    sheet = (
        images.view(len(rows), len(names), 3, 64, 64)
        .permute(0, 3, 1, 4, 2)
        .reshape(len(rows) * 64, len(names) * 64, 3)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet * 255).round().byte().numpy()).save(path, optimize=True)


def main(
    steps: int = 50,
    guidance: float = 5.0,
    seed: int = 0,
    captions: int = 9,
    seeds: int = 6,
    only_grid: bool = False,
    path: Path = GRID,
) -> None:
    """Measure the folder as it is shipped, with the stock pipeline."""
    torch.set_grad_enabled(False)
    pipe = StableDiffusionPipeline.from_pretrained(TINY)
    pipe.set_progress_bar_config(disable=True)
    grid(pipe, path, steps, guidance, seed)
    if only_grid:
        return
    judge = Judge.load()
    result = {
        "steps": steps,
        "guidance_scale": guidance,
        "recognised": recognised(pipe, judge, steps, guidance, seed),
        "through_the_autoencoder": through_the_autoencoder(pipe, judge, 432, seed),
        "diversity": diversity(pipe, captions, seeds, steps, guidance, seed),
        "sensitivity": sensitivity(pipe, 8, steps, guidance, seed),
        "best_drawn_on_other_seeds": best_drawn(pipe, judge, steps, guidance, [seed + 1, seed + 2]),
    }
    print(json.dumps(result, indent=1))
    (WORK / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
