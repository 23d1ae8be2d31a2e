"""What a picture is made from: a prompt and a seed, or what stands in their place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

# Encoded prompts: tensors with leading dimension B, or lists of B tensors where a pipeline takes
# such, by the names under which its `__call__` takes them.
Encoded = dict[str, Any]


class Example(NamedTuple):
    """A prompt and the seed of its noise: together they fix a picture."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Inputs:
    """What the model is asked for: one prompt, one noise and one row of `encoded` per example.

    Args:
        examples: which pictures these are.
        prompts: as the model gets them.
        noise: `[B, …]`, unit variance, as `DiffusionModel.noise` makes it.
        encoded: the encoded prompts, as `DiffusionModel.encode` makes them, in place of `prompts`;
            or None.

    """

    examples: Sequence[Example]
    prompts: Sequence[str]
    noise: Float[Tensor, "batch *shape"]
    encoded: Encoded | None = None


def expand_batch(encoded: Encoded, batch: int) -> Encoded:
    """Encoded prompts with `batch` rows, from one row or from `batch` of them."""
    return {
        name: rows.expand(batch, *rows.shape[1:])
        if isinstance(rows, Tensor)
        else list(rows) * (batch if len(rows) == 1 else 1)
        for name, rows in encoded.items()
    }
