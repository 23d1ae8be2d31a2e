"""Train the judge on real pictures: `python -m training.judges --minutes 5`.

`--left-out STYLE` tests it on a style that it never saw.

`--folder`, `--widths` and `--seed` make another classifier of the same classes, to optimise against
while the bundled one judges.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import typer
from safetensors.torch import save_file
from torch import Tensor, nn

from adjointdpm.metrics.networks.judge import Judge
from training.concepts import STYLES, load_concepts
from training.data import VARIANTS, WORK, draw
from training.steps import set_rate, take_step

FOLDER = Path(__file__).parents[1] / "src" / "adjointdpm" / "pipelines" / "tiny" / "judge"
WIDTHS = (24, 48, 96, 128)
HELD_OUT = 3  # of the variants of each picture are never trained on


def augment(images: Tensor) -> Tensor:
    """Blur, brightness, contrast and noise, on images in [0, 1].

    They make the judge read shapes and tones, and not count pixels.
    """
    n = len(images)
    for size in (2, 4):  # an autoencoder smooths both the finest and the next detail
        small = F.interpolate(
            F.avg_pool2d(images, size), scale_factor=size, mode="bilinear", align_corners=False
        )
        images = torch.lerp(images, small, 2 / size * torch.rand(n, 1, 1, 1))
    images = (
        (images - 0.5) * (0.8 + 0.4 * torch.rand(n, 1, 1, 1)) + 0.5 + 0.1 * torch.randn(n, 3, 1, 1)
    )
    shift = torch.randint(-3, 4, (2,)).tolist()
    return torch.roll(
        images + 0.03 * torch.rand(n, 1, 1, 1) * torch.randn_like(images), shift, (2, 3)
    ).clamp(0, 1)


def pictures(images: np.ndarray) -> Tensor:
    """uint8 [B, 64, 64, 3] to float32 [B, 3, 64, 64] in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def accuracies(judge: Judge, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Concept top-1 and top-5, and style accuracy."""
    with torch.no_grad():
        batches = [
            (judge.concept_logits(x), judge.style_logits(x))
            for x in map(pictures, np.array_split(images, len(images) // 256 + 1))
        ]
    concept, style = (torch.cat(logits) for logits in zip(*batches, strict=True))
    truth = torch.from_numpy(labels.astype(np.int64))
    top5 = (concept.topk(5).indices == truth[:, :1]).any(1)
    return {
        "concept_top1": (concept.argmax(1) == truth[:, 0]).float().mean().item(),
        "concept_top5": top5.float().mean().item(),
        "style": (style.argmax(1) == truth[:, 1]).float().mean().item(),
        "pictures": len(images),
    }


def save(judge: Judge, folder: Path) -> None:
    """Half-precision weights and the names of the classes."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half().contiguous() for k, v in judge.state_dict().items()}
    save_file(weights, folder / "model.safetensors.tmp")
    (folder / "model.safetensors.tmp").replace(folder / "model.safetensors")
    widths = [
        layer.out_channels
        for layer in judge.trunk
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)
    ]
    (folder / "config.json").write_text(
        json.dumps({"concepts": judge.concepts, "styles": judge.styles, "widths": widths}) + "\n"
    )


def split(
    kept: list[int], left_out: str, placements: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pictures and labels to train on, then those to test on.

    Args:
        kept: indices of the concepts, which become the judge's classes.
        left_out: a style that is only tested on; otherwise some variants of each picture are.
        placements: how many more of each picture are drawn to train on.
        seed: of these.

    """
    pool = np.load(WORK / "pool.npz")
    rows = np.isin(pool["labels"][:, 0], kept)
    images, labels = pool["images"][rows], pool["labels"][rows]
    labels[:, 0] = np.searchsorted(kept, labels[:, 0])
    style = list(STYLES).index(left_out) if left_out else -1
    variants = np.arange(len(rows))[rows] % VARIANTS
    known = labels[:, 1] != style if left_out else variants >= HELD_OUT
    test_images, test_labels = images[~known], labels[~known]
    images, labels = images[known], labels[known]
    if placements:
        more, labelled = draw(kept, placements, seed + 1)
        labelled[:, 0] = np.searchsorted(kept, labelled[:, 0])
        known = labelled[:, 1] != style
        images = np.concatenate([images, more[known]])
        labels = np.concatenate([labels, labelled[known]])
    return images, labels, test_images, test_labels


def main(
    minutes: float = 5.0,
    left_out: str = "",
    batch: int = 64,
    seed: int = 0,
    resume: bool = False,
    folder: Path = FOLDER,
    widths: str = ",".join(map(str, WIDTHS)),
    placements: int = 0,
) -> None:
    """Train by the clock, and print accuracies on unseen augmentations as JSON.

    The classes are the familiar concepts and the generator's withheld ones.

    With `--left-out`, pictures of that style are only tested on, and nothing is saved. `--widths`
    are four channel counts, divisible by 8. `--placements` draws so many more of each picture to
    train on; the pool's, the same for every judge, are what it is tested on.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(seed)
    kept = [i for i, c in enumerate(load_concepts()) if c.familiar or c.withheld]
    concepts, styles = [load_concepts()[i].name for i in kept], list(STYLES)
    images, labels, test_images, test_labels = split(kept, left_out, placements, seed)
    judge = Judge(concepts, styles, tuple(map(int, widths.split(","))))
    if resume:  # from what was saved, with a new optimizer and other batches
        judge = Judge.load(folder)
        rng = np.random.default_rng(seed + 1)
    judge.requires_grad_(True)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=2e-2)
    start, step = time.time(), 0
    while (progress := (time.time() - start) / (60 * minutes)) < 1:
        set_rate(optimizer, 3e-3 * (1 - progress) * min(1.0, (step + 1) / 100))
        picks = rng.integers(len(images), size=batch)
        features = judge.pooled(augment(pictures(images[picks])))
        truth = torch.from_numpy(labels[picks].astype(np.int64))
        loss = F.cross_entropy(judge.concept(features), truth[:, 0]) + F.cross_entropy(
            judge.style(features), truth[:, 1]
        )
        take_step(optimizer, loss)
        step += 1
        if step % 100 == 0:
            typer.echo(f"{progress:6.1%} step {step} loss {loss.item():.4f}", err=True)
    judge.requires_grad_(False)
    facts = {
        "left_out": left_out or None,
        "minutes": minutes,
        "steps": step,
        "trained_on": len(images),
    }
    result = {**facts, **accuracies(judge, test_images, test_labels)}
    print(json.dumps(result))
    if not left_out:
        save(judge, folder)
        (WORK / "judge.json" if folder == FOLDER else folder / "accuracies.json").write_text(
            json.dumps(result) + "\n"
        )
    else:
        (WORK / f"judge-{left_out}.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    typer.run(main)
