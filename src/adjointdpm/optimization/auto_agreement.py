"""Makes `Auto` use the same method in all processes of a run, and when the run is resumed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from adjointdpm.engine.gradients import Auto, resolve
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.support.distributed import Processes

Choices = dict[str, dict[str, Any]]  # as `Auto.decisions` has them


def agreed(render: Renderer, processes: Processes) -> Choices:
    """Let all processes use the choices of the one that needs most VJPs, and return them.

    Each process measures on its own examples. Every process must call this. The result is empty
    for methods other than `Auto`.
    """
    method = resolve(render.gradient)
    if not isinstance(method, Auto):
        return {}
    choices: Choices = {}
    for decided in processes.gather([method.decisions(_owner(render))]):
        for kind, facts in decided.items():
            choices[kind] = max(choices.get(kind, facts), facts, key=_need)
    adopt(render, choices)
    return choices


@contextmanager
def unchanged(render: Renderer) -> Iterator[None]:
    """Undo within the block what `Auto` decides, if it had decided something before."""
    method = resolve(render.gradient)
    decisions = method.decisions(_owner(render)) if isinstance(method, Auto) else {}
    try:
        yield
    finally:
        if decisions:
            adopt(render, decisions)


def adopt(render: Renderer, choices: Choices) -> None:
    """Let the renderer's `Auto` use `choices` without measuring; do nothing for other methods."""
    method = resolve(render.gradient)
    if isinstance(method, Auto):
        method.decide(_owner(render), choices)


def _owner(render: Renderer) -> Any:
    """What `Auto` remembers its choices by: the network, or a pipeline without a known one."""
    return getattr(render.model, "network", render.model)


def _need(facts: dict[str, Any]) -> tuple[float, int]:
    """How many VJPs a choice needs (exact gradients: all), then how doubtful it has become."""
    return math.inf if facts["vjps"] is None else facts["vjps"], facts["alarms"]
