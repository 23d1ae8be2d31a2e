"""Pictures for the bundled model: emoji in three styles at random places on coloured backgrounds.

`python -m training.data` fetches the packages, renders the pool of pictures and writes
`concepts.json`.
"""

import io
import json
import random
import subprocess
import tarfile
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import typer
from PIL import Image

from training.concepts import BACKGROUNDS, CONCEPTS, FAMILIAR, STYLES, Concept, load_concepts

WORK = Path(__file__).parent / "work"
SIZE = 64
LABELS = "emojibase-data@17.0.0"
# emojibase subgroups: mammals, birds, amphibians, reptiles, marine animals; fruit, vegetables,
# prepared food, sweets, drinks.
SUBGROUPS = (34, 35, 36, 37, 38, 42, 43, 44, 46, 47)
WITHHELD_SHARE = 0.05
WHITE_SHARE = 0.5
SCALES = (0.75, 1.0)  # of a picture in its frame
VARIANTS = 24  # placements of each picture, next to each other in the pool


def fetch() -> dict[str, Path]:
    """Download (once) and unpack the packages; returns the folder of each."""
    folders = {}
    (WORK / "npm").mkdir(parents=True, exist_ok=True)
    for package in (*STYLES.values(), LABELS):
        name, version = package.removeprefix("@").replace("/", "-").rsplit("@", 1)
        archive, folder = WORK / "npm" / f"{name}-{version}.tgz", WORK / "npm" / name
        if not archive.exists():
            subprocess.run(
                ["npm", "pack", package, "--silent", "--pack-destination", archive.parent],
                check=True,
            )
        if not folder.exists():
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        folders[package] = folder / "package"
    return folders


def read_styles(folders: dict[str, Path]) -> dict[str, dict[str, str]]:
    """SVG documents by style and codepoint."""
    styles = {}
    for style, package in STYLES.items():
        icons: dict[str, Any] = json.loads((folders[package] / "icons.json").read_text())
        names: dict[str, str] = json.loads((folders[package] / "chars.json").read_text())
        documents = {}
        for codepoint, name in names.items():
            icon = icons["icons"].get(name)
            if icon is not None:
                width, height = (icon.get(k, icons.get(k, 16)) for k in ("width", "height"))
                documents[_plain(codepoint)] = (
                    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} '
                    f'{height}">{icon["body"]}</svg>'
                )
        styles[style] = documents
    return styles


def choose_concepts(
    folders: dict[str, Path], styles: dict[str, dict[str, str]], seed: int = 0
) -> list[Concept]:
    """Every emoji of `SUBGROUPS` that all styles draw, less the "… face" twins.

    Whole clusters are withheld at random.

    A cluster is the set of concepts that share their last word (bear, polar bear, teddy bear):
    withholding one of them would leave its near-twin.
    """
    entries = json.loads((folders[LABELS] / "en" / "data.json").read_text())
    found = {
        e["label"].replace("’", "'"): _plain(e["hexcode"].lower())
        for e in entries
        if e.get("subgroup") in SUBGROUPS
        and all(_plain(e["hexcode"].lower()) in s for s in styles.values())
    }
    labels = sorted(
        label
        for label in found
        if label.removesuffix(" face") == label or label.removesuffix(" face") not in found
    )
    clusters = defaultdict(list)
    for label in labels:
        clusters[label.removesuffix(" face").split()[-1]].append(label)
    withheld: set[str] = set()
    order = sorted(clusters)
    random.Random(seed).shuffle(order)
    for cluster in order:
        if len(withheld) >= WITHHELD_SHARE * len(labels):
            break
        withheld |= set(clusters[cluster])
    return [
        Concept(n, found[n], c, n in withheld, n in FAMILIAR and n not in withheld)
        for c in sorted(clusters)
        for n in clusters[c]
    ]


def place(picture: Image.Image, background: tuple[int, int, int], rng: random.Random) -> np.ndarray:
    """Put the picture on a plain background, at a random scale and position, perhaps mirrored.

    The result is uint8 [64, 64, 3].
    """
    side = round(SIZE * rng.uniform(*SCALES))
    small = picture.resize((side, side), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    canvas = Image.new("RGB", (SIZE, SIZE), background)
    canvas.paste(small, (rng.randint(0, SIZE - side), rng.randint(0, SIZE - side)), small)
    return np.asarray(canvas)


def render(svg: str, side: int = 2 * SIZE) -> Image.Image:
    """An RGBA picture of an SVG document; this takes the extra `training`."""
    import resvg_py

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))
    return Image.open(io.BytesIO(png)).convert("RGBA")


def draw(chosen: list[int], variants: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw placements of the chosen concepts in every style.

    The `variants` of each picture lie next to each other.

    Returns:
        uint8 pictures [n, 64, 64, 3], and for each the indices of its concept (among all), style
        and background [n, 3].

    """
    styles, concepts = read_styles(fetch()), load_concepts()
    rng = random.Random(seed)
    names = list(BACKGROUNDS)
    images, labels = [], []
    for c in chosen:
        for s, style in enumerate(STYLES):
            picture = render(styles[style][concepts[c].codepoint])
            for _ in range(variants):
                b = 0 if rng.random() < WHITE_SHARE else rng.randrange(1, len(names))
                images.append(place(picture, BACKGROUNDS[names[b]], rng))
                labels.append((c, s, b))
    return np.stack(images), np.array(labels, dtype=np.int16)


def main(seed: int = 0) -> None:
    """Render the pictures and write `work/pool.npz`.

    It holds uint8 pictures and, for each, the indices of its concept, style and background.
    """
    folders = fetch()
    concepts = choose_concepts(folders, read_styles(folders), seed)
    CONCEPTS.write_text(json.dumps([asdict(c) for c in concepts], indent=1) + "\n")
    images, labels = draw(list(range(len(concepts))), VARIANTS, seed)
    temporary = WORK / "pool.tmp.npz"
    np.savez(temporary, images=images, labels=labels)
    temporary.replace(WORK / "pool.npz")
    withheld = [c.name for c in concepts if c.withheld]
    print(
        f"{len(concepts)} concepts, {len(withheld)} withheld: {', '.join(withheld)}; {len(images)} "
        f"pictures"
    )


def _plain(codepoint: str) -> str:
    return codepoint.replace("-fe0f", "")


if __name__ == "__main__":
    typer.run(main)
