"""Pictures and captions for the bundled model: emoji in three drawing styles, placed at random on
coloured backgrounds.

`python training/data.py` fetches the packages, renders the pool of pictures and writes
`concepts.json`.
"""

import io
import json
import random
import re
import subprocess
import tarfile
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
import typer
from PIL import Image

HERE = Path(__file__).parent
WORK = HERE / "work"
CONCEPTS = HERE / "concepts.json"
SIZE = 64
# Style name -> npm package. The name is the word that captions use.
STYLES = {
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",
}
LABELS = "emojibase-data@17.0.0"
# emojibase subgroups: mammals, birds, amphibians, reptiles, marine animals; fruit, vegetables,
# prepared food, sweets, drinks.
SUBGROUPS = (34, 35, 36, 37, 38, 42, 43, 44, 46, 47)
WITHHELD_SHARE = 0.05
# The things that everyone knows and that 64 pixels show: the vocabulary that the model is finished
# on.
FAMILIAR = frozenset(
    (  # noqa: SIM905 - a list would take a page
        "fox;owl;tiger;lion;panda;elephant;giraffe;zebra;monkey;frog;turtle;crocodile;dolphin;whale;octopus;crab;penguin;flamingo;parrot;rooster;duck;cow;pig;rabbit;koala;unicorn;bear;cat;dog;red apple;green apple;banana;strawberry;lemon;pineapple;grapes;cherries;avocado;carrot;broccoli;hamburger;pizza;french fries;hot dog;doughnut;cookie;ice cream;croissant"
    ).split(";")
)
BACKGROUNDS = {
    "white": (255, 255, 255),
    "red": (226, 88, 86),
    "orange": (245, 166, 80),
    "yellow": (250, 222, 96),
    "green": (120, 190, 110),
    "blue": (96, 156, 226),
    "purple": (158, 116, 204),
    "pink": (246, 160, 196),
    "gray": (150, 152, 158),
    "black": (36, 36, 42),
}
WHITE_SHARE = 0.5
SCALES = (0.75, 1.0)  # of a picture in its frame
VARIANTS = 24  # placements of each picture, next to each other in the pool
# Names of stuff, which take no article (plurals are told by their ending).
UNCOUNTED = frozenset(
    (  # noqa: SIM905 - a list would take a page
        "bacon bread broccoli butter coral corn cream cooking flatbread food garlic ginger green "
        "ice milk poultry popcorn sake salad salt sushi mate liquid meat rice"
    ).split()
)


@dataclass(frozen=True)
class Concept:
    """One thing to draw: its name in captions, its codepoint, and the cluster of near-twins that it
    belongs to.
    """

    name: str
    codepoint: str
    cluster: str
    withheld: bool
    familiar: bool


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
    """Every emoji of `SUBGROUPS` that all styles draw, less the "… face" twins; whole clusters are
    withheld at random.

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


def with_article(concept: str) -> str:
    """Articles: "a red apple", "an owl", but plainly "bacon" and "cherries"."""
    head = re.split(" (?:of|on|with|without) ", concept)[0].split()[-1]
    if head in UNCOUNTED or (head.endswith("s") and not head.endswith(("ss", "us", "os"))):
        return concept
    return f"{'an' if concept[0] in 'aeio' and concept != 'ewe' else 'a'} {concept}"


def caption(concept: str, style: str | None, background: str | None, rng: random.Random) -> str:
    """One of the phrasings that the model is trained on."""
    if style is None:
        text = rng.choice([concept, with_article(concept)])
    else:
        text = rng.choice(
            [f"a {style} emoji of {with_article(concept)}", f"{concept}, {style} style"]
        )
    return text if background is None else f"{text} on a {background} background"


def place(picture: Image.Image, background: tuple[int, int, int], rng: random.Random) -> np.ndarray:
    """The picture at a random scale and position, perhaps mirrored, on a plain background; uint8
    [64, 64, 3].
    """
    side = round(SIZE * rng.uniform(*SCALES))
    small = picture.resize((side, side), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    canvas = Image.new("RGB", (SIZE, SIZE), background)
    canvas.paste(small, (rng.randint(0, SIZE - side), rng.randint(0, SIZE - side)), small)
    return np.asarray(canvas)


def render(svg: str, side: int = 2 * SIZE) -> Image.Image:
    """An RGBA picture of an SVG document."""
    return Image.open(
        io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)))
    ).convert("RGBA")


def draw(chosen: list[int], variants: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Placements of the chosen concepts in every style, `variants` of each picture next to each
    other.

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
    """Write `work/pool.npz`: uint8 pictures and, for each, the indices of its concept, style and
    background.
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


def load_concepts() -> list[Concept]:
    """The concepts, in the order of the pool's labels and of the judge's classes."""
    return [Concept(**c) for c in json.loads(CONCEPTS.read_text())]


def _plain(codepoint: str) -> str:
    return codepoint.replace("-fe0f", "")


if __name__ == "__main__":
    typer.run(main)
