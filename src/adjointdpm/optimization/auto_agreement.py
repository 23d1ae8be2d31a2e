"""What `Auto` decided in a run of the loop: the same in all its processes, and in the sessions that
resume it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from adjointdpm.engine.gradients import Auto, resolve
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.support.distributed import Processes

Choices = dict[str, dict[str, Any]]  # as `Auto.decisions` has them


def agreed(render: Renderer, processes: Processes) -> Choices:
    """What the renderer's `Auto` has decided so far, from now on the same in all processes; nothing
    for other methods.

    Each process measures on its own examples; the decision of the one counts whose examples need
    most: what any process gives up, all give up, and of two numbers of VJPs the larger one is
    taken. Every process must call this.
    """
    method = resolve(render.gradient)
    if not isinstance(method, Auto):
        return {}
    choices: Choices = {}
    for decided in processes.gather([method.decisions(render.model.network)]):
        for kind, facts in decided.items():
            so_far = choices.setdefault(kind, facts)
            alarms = max(facts["alarms"], so_far["alarms"])
            choices[kind] = max(so_far, facts, key=_need) | {
                "alarms": alarms if _need(facts) == _need(so_far) else 0
            }
    adopt(render, choices)
    return choices


@contextmanager
def unchanged(render: Renderer) -> Iterator[None]:
    """Let the renderer's `Auto` forget what it decides within, if it had decided something before."""
    method = resolve(render.gradient)
    decisions = method.decisions(render.model.network) if isinstance(method, Auto) else {}
    try:
        yield
    finally:
        if decisions:
            adopt(render, decisions)


def _need(facts: dict[str, Any]) -> tuple[int, bool, float]:
    """What has been given up counts first, then whether anything was measured since, then how many
    VJPs that needs.
    """
    measured = "vjps" in facts
    return facts["least"], measured, (facts["vjps"] or math.inf) if measured else 0


def adopt(render: Renderer, choices: Choices) -> None:
    """Let the renderer's `Auto` go on with what was decided, without measuring again; other methods
    need nothing.
    """
    method = resolve(render.gradient)
    if isinstance(method, Auto):
        method.decide(render.model.network, choices)
