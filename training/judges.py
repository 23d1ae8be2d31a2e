"""Train the judge on real pictures: `python -m training.judges --minutes 5`.

`--left-out STYLE` tests it on a style that it never saw.

`--folder`, `--widths` and `--seed` make another classifier of the same classes, to optimise against
while the bundled one judges. `--stylised 0.6` mixes in what `training.stylised` has painted.
"""

import json
import time
from collections.abc import Callable
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
SAVE_EVERY = 500  # steps
RATE = 3e-3

# uint8 pictures [n, 64, 64, 3], and for each the indices of its concept, style and background.
Drawings = tuple[np.ndarray, np.ndarray]


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


def filter_randomly(images: Tensor) -> Tensor:
    """Mix half of the pictures with what a random filter makes of them: other colours and textures.

    What stays is shapes. The filters' sizes are those of a batch (RandConv, Xu et al. 2021).
    """
    n, size = len(images), 2 * int(torch.randint(3, ())) + 1
    kernels = torch.randn(3 * n, 3, size, size)
    mean = images.mean((2, 3), keepdim=True)
    filtered = F.conv2d(
        (images - mean).reshape(1, 3 * n, *images.shape[2:]), kernels, padding=size // 2, groups=n
    ).view_as(images)
    scale = images.std((1, 2, 3), keepdim=True) / (filtered.std((1, 2, 3), keepdim=True) + 1e-6)
    share = torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.5)
    return torch.lerp(images, (filtered * scale + mean).clamp(0, 1), share)


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


def stylised_drawings(kept: list[int], left_out: str) -> Drawings:
    """Everything that `training.stylised` has painted to train on."""
    parts = [np.load(path) for path in sorted((WORK / "stylised").glob("train-*.npz"))]
    if not parts:
        raise SystemExit("there are no stylised drawings; run `python -m training.stylised` first")
    images = np.concatenate([part["images"] for part in parts])
    labels = np.concatenate([part["labels"] for part in parts])
    known = np.isin(labels[:, 0], kept)
    if left_out:
        known &= labels[:, 1] != list(STYLES).index(left_out)
    images, labels = images[known], labels[known]
    labels[:, 0] = np.searchsorted(kept, labels[:, 0])
    return images, labels


def loss_of(judge: Judge, plain: Drawings, stylised: Drawings | None) -> Tensor:
    """Cross-entropy of the concepts, and of the plain drawings' styles."""
    images = augment(pictures(plain[0]))
    labels = torch.from_numpy(plain[1].astype(np.int64))
    features = judge.pooled(images)
    loss = F.cross_entropy(judge.style(features), labels[:, 1])
    if stylised is not None:
        painted = judge.pooled(augment(filter_randomly(pictures(stylised[0]))))
        features = torch.cat([features, painted])
        labels = torch.cat([labels, torch.from_numpy(stylised[1].astype(np.int64))])
    return loss + F.cross_entropy(judge.concept(features), labels[:, 0])


def train(
    judge: Judge,
    draw_loss: Callable[[], Tensor],
    minutes: float,
    keep: Callable[[], None],
    rate: float = RATE,
) -> int:
    """Train by the clock, `keep` now and then, and return the number of steps."""
    judge.requires_grad_(True)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=rate, weight_decay=2e-2)
    start, step = time.time(), 0
    while (progress := (time.time() - start) / (60 * minutes)) < 1:
        set_rate(optimizer, rate * (1 - progress) * min(1.0, (step + 1) / 100))
        loss = draw_loss()
        take_step(optimizer, loss)
        step += 1
        if step % 100 == 0:
            typer.echo(f"{progress:6.1%} step {step} loss {loss.item():.4f}", err=True)
        if step % SAVE_EVERY == 0:
            keep()
    judge.requires_grad_(False)
    return step


def main(
    minutes: float = 5.0,
    left_out: str = "",
    batch: int = 64,
    seed: int = 0,
    resume: bool = False,
    source: Path | None = None,
    folder: Path = FOLDER,
    widths: str = ",".join(map(str, WIDTHS)),
    placements: int = 0,
    stylised: float = 0.0,
    rate: float = RATE,
    bf16: bool = False,
) -> None:
    """Train by the clock, and print accuracies on unseen augmentations as JSON.

    The classes are the familiar concepts and the generator's withheld ones.

    With `--left-out`, pictures of that style are only tested on, and nothing is saved. `--widths`
    are four channel counts, divisible by 8. `--placements` draws so many more of each picture to
    train on; the pool's, the same for every judge, are what it is tested on. `--resume` goes on
    from `--source`, by default from `--folder`, which is saved into. `--stylised` is the share of
    a batch that painters have redrawn. `--bf16` takes half of the time on a processor that has it.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    rng = np.random.default_rng(seed)
    kept = [i for i, c in enumerate(load_concepts()) if c.familiar or c.withheld]
    concepts, styles = [load_concepts()[i].name for i in kept], list(STYLES)
    images, labels, test_images, test_labels = split(kept, left_out, placements, seed)
    painted = stylised_drawings(kept, left_out) if stylised else None
    judge = Judge(concepts, styles, tuple(map(int, widths.split(","))))
    if resume:  # from what was saved, with a new optimizer and other batches
        judge = Judge.load(source or folder)
        rng = np.random.default_rng(seed + 1)

    def draw_loss() -> Tensor:
        picks = rng.integers(len(images), size=batch - round(stylised * batch))
        plain, redrawn = (images[picks], labels[picks]), None
        if painted is not None:
            picks = rng.integers(len(painted[0]), size=round(stylised * batch))
            redrawn = painted[0][picks], painted[1][picks]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return loss_of(judge, plain, redrawn)

    def keep() -> None:
        if not left_out:
            save(judge, folder)

    steps = train(judge, draw_loss, minutes, keep, rate)
    result = {
        "left_out": left_out or None,
        "minutes": minutes,
        "steps": steps,
        "trained_on": len(images) + (0 if painted is None else len(painted[0])),
        **accuracies(judge, test_images, test_labels),
    }
    print(json.dumps(result))
    keep()
    if left_out:
        record = WORK / f"judge-{left_out}.json"
    else:
        record = WORK / "judge.json" if folder == FOLDER else folder / "accuracies.json"
    record.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    typer.run(main)
