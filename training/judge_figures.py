"""What a judge recognises, as JSON: `python -m training.judge_figures`.

- real drawings that it was not trained on: plain, and in painters' styles that no judge was trained
  on (`--validation`: in those that settings are compared on);
- pictures that the bundled model drew, and real ones through its autoencoder;
- pictures with their patches shuffled, or with other prompts, which it should not.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from diffusers import StableDiffusionPipeline
from torch import Tensor

from adjointdpm.metrics.networks.judge import BUNDLED, Judge
from training.concepts import STYLES, load_concepts, with_article
from training.data import WORK
from training.evaluate import generate, noise, through_the_autoencoder
from training.export import TINY
from training.judges import accuracies, pictures
from training.stylised import FOLDER, write

PATCH = 8  # pixels a side, of what is shuffled
BATCH = 12  # pictures that are drawn together


def generated(seed: int, steps: int, guidance: float) -> dict[str, np.ndarray]:
    """One picture of every familiar concept in every style, drawn once and kept, with labels."""
    path = WORK / f"generated-{seed}-{steps}-{guidance:g}.npz"
    pairs = [
        (i, s) for i, c in enumerate(load_concepts()) if c.familiar for s in range(len(STYLES))
    ]
    if not path.exists():
        pipe = StableDiffusionPipeline.from_pretrained(TINY)
        pipe.set_progress_bar_config(disable=True)
        names, styles = [c.name for c in load_concepts()], list(STYLES)
        captions = [f"a {styles[s]} emoji of {with_article(names[i])}" for i, s in pairs]
        parts = zip(
            np.array_split(captions, len(captions) // BATCH),
            noise(len(captions), seed).tensor_split(len(captions) // BATCH),
            strict=True,
        )
        images = torch.cat([generate(pipe, list(c), z, steps, guidance) for c, z in parts])
        drawn = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        write(path, {"images": drawn, "labels": np.array(pairs, dtype=np.int16)})
    return dict(np.load(path))


def shuffle_patches(images: np.ndarray, seed: int) -> np.ndarray:
    """Put the patches of each picture in a random order: colours and strokes without shapes."""
    n, height, width, _ = images.shape
    rows, columns = height // PATCH, width // PATCH
    patches = images.reshape(n, rows, PATCH, columns, PATCH, 3).swapaxes(2, 3)
    patches = patches.reshape(n, rows * columns, PATCH, PATCH, 3)
    shuffled = np.random.default_rng(seed).permuted(
        np.arange(rows * columns)[None].repeat(n, 0), axis=1
    )
    patches = patches[np.arange(n)[:, None], shuffled]
    patches = patches.reshape(n, rows, columns, PATCH, PATCH, 3).swapaxes(2, 3)
    return patches.reshape(images.shape)


def in_its_classes(judge: Judge, labels: np.ndarray) -> np.ndarray:
    """Labels by the judge's classes instead of by all concepts."""
    names, labels = [c.name for c in load_concepts()], labels.copy()
    labels[:, 0] = [judge.concepts.index(names[i]) for i in labels[:, 0]]
    return labels


def on_others(judge: Judge, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The share of pictures in which it sees another prompt's subject among its first five.

    Every picture meets every other familiar concept once. `likeliest` is the share of the wrong
    concept that is taken most often: 1 would be a concept that it sees everywhere.
    """
    with torch.no_grad():
        top = judge.concept_logits(pictures(images)).topk(5).indices
    asked = torch.from_numpy(np.unique(labels[:, 0]).astype(np.int64))
    truth = torch.from_numpy(labels[:, 0].astype(np.int64))
    seen = (top[:, None, :] == asked[None, :, None]).any(2)
    wrong = asked[None] != truth[:, None]
    by_concept = (seen & wrong).sum(0) / wrong.sum(0)
    return {
        "top5": (seen & wrong).sum().item() / wrong.sum().item(),
        "likeliest": by_concept.max().item(),
        "top1": ((top[:, :1, None] == asked[None, None]).any(1) & wrong).sum().item()
        / wrong.sum().item(),
    }


def confidence(judge: Judge, images: np.ndarray, labels: np.ndarray) -> float:
    """Mean probability of the right concept."""
    with torch.no_grad():
        sure: Tensor = judge.concept_logits(pictures(images)).softmax(1)
    truth = torch.from_numpy(labels[:, :1].astype(np.int64))
    return sure.gather(1, truth).mean().item()


def on_real(judge: Judge, path: Path) -> dict[str, dict[str, Any]]:
    """Its accuracies on plain drawings and on stylised ones, together and by painter."""
    arrays = np.load(path)
    labels = in_its_classes(judge, arrays["labels"])
    found: dict[str, dict[str, Any]] = {"plain": accuracies(judge, arrays["plain"], labels)}
    for strength in ("weak", "full"):
        each = [accuracies(judge, images, labels) for images in arrays[strength]]
        found[strength] = {key: sum(e[key] for e in each) / len(each) for key in each[0]} | {
            "pictures": sum(e["pictures"] for e in each),
            "top5_by_painter": {
                int(i): round(e["concept_top5"], 3)
                for i, e in zip(arrays["painters"], each, strict=True)
            },
        }
    ruined = [shuffle_patches(images, i) for i, images in enumerate(arrays["full"])]
    found["full, patches shuffled"] = accuracies(
        judge, np.concatenate(ruined), np.tile(labels, (len(ruined), 1))
    )
    return found


def on_generated(
    judge: Judge, seeds: list[int], steps: int, guidance: float
) -> dict[str, dict[str, float]]:
    """Its verdicts on the bundled model's pictures of all seeds together."""
    drawn = [generated(seed, steps, guidance) for seed in seeds]
    images = np.concatenate([d["images"] for d in drawn])
    labels = in_its_classes(judge, np.concatenate([d["labels"] for d in drawn]))
    shuffled = shuffle_patches(images, 0)
    return {
        "own prompt": accuracies(judge, images, labels)
        | {"probability": confidence(judge, images, labels)},
        "other prompts": on_others(judge, images, labels),
        "patches shuffled": accuracies(judge, shuffled, labels)
        | {"probability": confidence(judge, shuffled, labels)},
    }


def main(
    judge: Path = BUNDLED,
    validation: bool = False,
    seeds: str = "0,77,78",
    steps: int = 50,
    guidance: float = 5.0,
) -> None:
    """Measure the judge in a folder."""
    torch.set_grad_enabled(False)
    network = Judge.load(judge)
    name = "validation" if validation else "held_out"
    found: dict[str, object] = {"real drawings": on_real(network, FOLDER / f"{name}.npz")}
    if seeds:
        chosen = [int(seed) for seed in seeds.split(",")]
        found["the model's pictures"] = on_generated(network, chosen, steps, guidance)
        pipe = StableDiffusionPipeline.from_pretrained(TINY)
        found["through the autoencoder"] = through_the_autoencoder(pipe, network, 432, 0)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
