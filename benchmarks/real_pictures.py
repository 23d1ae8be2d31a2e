"""Real emoji renderings, by the code that made the bundled model's training data.

`python -m training.data` fetches what they need.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import PromptError
from adjointdpm.metrics.subject_recognition import named_concept
from adjointdpm.variables import Example
from training import data
from training.concepts import BACKGROUNDS, STYLES, load_concepts

POOL = data.WORK / "pool.npz"


def subject(prompt: str, concepts: Sequence[str], styles: Sequence[str]) -> tuple[str, str]:
    """The concept and the drawing style that a prompt names."""
    concept, style = named_concept(prompt, concepts), named_concept(prompt, styles)
    if concept is None or style is None:
        raise PromptError(
            f"prompt {prompt!r} must name a concept and a style, so that there is a real picture "
            f"of it"
        )
    return concept, style


def composed(
    on_black: np.ndarray, on_white: np.ndarray, background: Float[Tensor, "3 H W"]
) -> Float[Tensor, "3 64 64"]:
    """Put a drawing on any background.

    It is given in the same placement on black and on white (uint8 [64, 64, 3]): where they differ,
    it is clear.
    """
    black, white = (
        torch.from_numpy(x.copy()).permute(2, 0, 1).float() / 255 for x in (on_black, on_white)
    )
    return black + (white - black) * background


def on_background(
    examples: Sequence[Example], background: Float[Tensor, "3 H W"], concepts: Sequence[str]
) -> Float[Tensor, "B 3 64 64"]:
    """Place the real drawing that each example's prompt names at random on the background."""
    styles = data.read_styles(data.fetch())
    codepoints = {concept.name: concept.codepoint for concept in load_concepts()}
    pictures = []
    for example in examples:
        concept, style = subject(example.prompt, concepts, list(styles))
        drawing = data.render(styles[style][codepoints[concept]])
        black, white = (
            data.place(drawing, (v, v, v), random.Random(example.seed)) for v in (0, 255)
        )
        pictures.append(composed(black, white, background))
    return torch.stack(pictures)


def from_pool(
    concept: str, styles: Sequence[str], variants: slice = slice(None)
) -> tuple[Float[Tensor, "B 3 64 64"], list[tuple[str, str]]]:
    """Pictures of one concept in some styles from the training data's pool, in [0, 1].

    Beside them, the style and background of each.
    """
    pool, names, backgrounds = np.load(POOL), list(STYLES), list(BACKGROUNDS)
    index = [known.name for known in load_concepts()].index(concept)
    labels, number = pool["labels"], np.arange(len(pool["labels"])) % data.VARIANTS
    wanted = np.isin(number, np.arange(data.VARIANTS)[variants])
    rows = np.flatnonzero(
        (labels[:, 0] == index)
        & np.isin(labels[:, 1], [names.index(style) for style in styles])
        & wanted
    )
    images = torch.from_numpy(pool["images"][rows]).permute(0, 3, 1, 2).float() / 255
    return images, [(names[s], backgrounds[b]) for _, s, b in labels[rows].tolist()]
