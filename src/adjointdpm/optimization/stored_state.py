"""What a checkpoint of the loop holds: the schema that it is checked with before it is used."""

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from adjointdpm.errors import CheckpointError
from adjointdpm.support.schema import Facts, check_facts


def _is_hex(text: str) -> str:
    if math.isnan(float.fromhex(text)):
        raise ValueError("must be a number")
    return text


HexFloat = Annotated[str, AfterValidator(_is_hex)]  # every bit of it, and infinity


class OptimizerFacts(Facts):
    """The optimiser's part; see `optimizers.pack_state`."""

    name: str = Field(alias="class")
    state: dict[str, Any]


class LoopFacts(Facts):
    """What a checkpoint says beside its tensors; see `Progress`. `history` are all records."""

    iteration: NonNegativeInt
    best_objective: HexFloat
    best_iteration: NonNegativeInt
    looks_without_progress: NonNegativeInt
    start_objective: HexFloat
    step_scale: PositiveFloat
    network_calls: NonNegativeInt
    seconds: NonNegativeFloat
    gradients: dict[str, dict[str, Any]]
    unseen: dict[str, Any] | None = None
    objective: dict[str, Any]
    optimizer: OptimizerFacts
    history: list[dict[str, Any]]


def check_stored(stored: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
    """Check that the loop could go on from a checkpoint, as far as that shows in itself.

    Raises:
        CheckpointError: it could not; the message names the field or the tensor.

    """
    tensors, facts = stored
    found = check_facts(LoopFacts, facts)
    last = found.iteration - (found.unseen is not None)
    if [record.get("iteration") for record in found.history] != [*range(last + 1)]:
        raise CheckpointError(
            f"history has {len(found.history)} records, which are not those of iterations 0 to "
            f"{last}"
        )
    groups: dict[str, set[str]] = {"now": set(), "best": set()}
    for name in tensors:
        group, _, rest = name.partition("/")
        groups.setdefault(group, set()).add(rest)
    if groups["now"] != groups["best"]:
        raise CheckpointError("the tensors of now and best have different names")
    missing = sorted(set(_named(found.optimizer.state)) - tensors.keys())
    if missing:
        raise CheckpointError(f"the optimiser's tensor {missing[0]} is missing")


def _named(value: Any) -> Iterator[str]:
    """The names of tensors in what `pack_state` returns."""
    if isinstance(value, dict):
        if value.keys() == {"tensor"}:
            yield str(value["tensor"])
        else:
            for item in value.values():
                yield from _named(item)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item)
