"""How a learned variable is measured on prompts and seeds that it never saw."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.metrics import Metric, structure_distance
from adjointdpm.rendering import Example

# Pictures and the examples that they were drawn for -> whether each still shows what its prompt names.
Recogniser = Callable[[Float[Tensor, "batch 3 height width"], Sequence[Example]], list[bool]]


@dataclass(frozen=True)
class Views:
    """The same examples drawn three times.

    Args:
        before: by the untouched model.
        word: by the untouched model, from the template with an existing word in the token's place: the control.
        after: with the learned token.

    """

    before: Float[Tensor, "batch 3 height width"]
    word: Float[Tensor, "batch 3 height width"]
    after: Float[Tensor, "batch 3 height width"]


@torch.no_grad()
def evaluate(metric: Metric, examples: Sequence[Example], views: Views, recognise: Recogniser | None = None) -> dict[str, Any]:
    """Means over the examples of everything that says whether the effect is there and the content survived.

    Returns:
        `before`, `existing_word`, `after`: mean metric, and `change` with a 95 % bootstrap `interval` (over pairs of one prompt and seed);
        `structure_distance` of after to before, and as a yardstick `structure_distance_unrelated`, of before to the next example's before;
        `distinctness`: mean distance between pictures after, relative to before (1: as different from each other as they were);
        `recognised`: the share of pictures in which the judge still sees the prompt's subject, before and after, if there is a judge.

    """
    before, word, after = (metric(images) for images in (views.before, views.word, views.after))
    result: dict[str, Any] = {
        "before": before.mean().item(),
        "existing_word": word.mean().item(),
        "after": after.mean().item(),
        "change": (after - before).mean().item(),
        "interval": _bootstrap((after - before).tolist()),
        "examples": len(examples),
        "structure_distance": structure_distance(views.after, views.before).mean().item(),
        "structure_distance_unrelated": structure_distance(views.before.roll(1, 0), views.before).mean().item(),
        "distinctness": _spread(views.after) / max(_spread(views.before), 1e-8),
    }
    if recognise is not None:
        shares = {name: recognise(images, examples) for name, images in vars(views).items()}
        names = {"before": "before", "word": "existing_word", "after": "after"}
        result["recognised"] = {names[name]: sum(hits) / len(hits) for name, hits in shares.items()}
    return result


def _bootstrap(values: list[float], rounds: int = 2000) -> list[float]:
    """95 % percentile interval of the mean."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(rounds))
    return [means[round(0.025 * (rounds - 1))], means[round(0.975 * (rounds - 1))]]


def _spread(images: Tensor) -> float:
    """Mean distance between the pictures of two examples, each less its mean colour: drawings are compared, not moods."""
    flat = (images - images.mean((2, 3), keepdim=True)).flatten(1)
    return torch.pdist(flat).mean().item() if len(flat) > 1 else 0.0
