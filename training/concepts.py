"""What the bundled model draws, and the captions that it was trained on."""

import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

CONCEPTS = Path(__file__).parent / "concepts.json"
# Style name -> npm package. The name is the word that captions use.
STYLES = {
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",
}
# The things that everyone knows and that 64 pixels show: the vocabulary that the model is finished
# on.
FAMILIAR = frozenset(
    (  # noqa: SIM905 - a list would take a page
        "fox;owl;tiger;lion;panda;elephant;giraffe;zebra;monkey;frog;turtle;"
        "crocodile;dolphin;whale;octopus;crab;penguin;flamingo;parrot;rooster;duck;"
        "cow;pig;rabbit;koala;unicorn;bear;cat;dog;red apple;green apple;banana;"
        "strawberry;lemon;pineapple;grapes;cherries;avocado;carrot;broccoli;hamburger;"
        "pizza;french fries;hot dog;doughnut;cookie;ice cream;croissant"
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
# Names of stuff, which take no article (plurals are told by their ending).
UNCOUNTED = frozenset(
    (  # noqa: SIM905 - a list would take a page
        "bacon bread broccoli butter coral corn cream cooking flatbread food garlic ginger green "
        "ice milk poultry popcorn sake salad salt sushi mate liquid meat rice"
    ).split()
)


@dataclass(frozen=True)
class Concept:
    """One thing to draw.

    Attributes:
        name: in captions.
        codepoint: of its emoji.
        cluster: the near-twins that it belongs to.
        withheld: whether the bundled model never saw it.
        familiar: whether the bundled model was finished on it.

    """

    name: str
    codepoint: str
    cluster: str
    withheld: bool
    familiar: bool


def load_concepts() -> list[Concept]:
    """The concepts, in the order of the pool's labels and of the judge's classes."""
    return [Concept(**c) for c in json.loads(CONCEPTS.read_text())]


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
