"""What `Auto` decided in a run of the loop: the same in all its processes, and in the sessions that resume it."""

from typing import Any

from adjointdpm.gradients import Auto, resolve
from adjointdpm.processes import Processes
from adjointdpm.rendering import Renderer

Choices = dict[str, dict[str, Any]]  # as `Auto.decisions` has them


def agreed(render: Renderer, processes: Processes) -> Choices:
    """What the renderer's `Auto` has decided so far, from now on the same in all processes; nothing for other methods.

    Each process measures on its own examples; the main one's decision counts, or if it had none to measure on, that of the first that had.
    What any process has given up, because its examples need more, all give up. Every process must call this.
    """
    method = resolve(render.gradient)
    if not isinstance(method, Auto):
        return {}
    choices: Choices = {}
    for decided in processes.gather([method.decisions(render.model.network)]):
        for kind, facts in decided.items():
            if kind not in choices or _weight(facts) > _weight(choices[kind]):
                choices[kind] = facts
    adopt(render, choices)
    return choices


def _weight(facts: dict[str, Any]) -> tuple[int, bool]:
    """What is known to be too few counts first, then whether anything was measured since."""
    return facts["too_few"], "vjps" in facts


def adopt(render: Renderer, choices: Choices) -> None:
    """Let the renderer's `Auto` go on with what was decided, without measuring again; other methods need nothing."""
    method = resolve(render.gradient)
    if isinstance(method, Auto):
        method.decide(render.model.network, choices)
