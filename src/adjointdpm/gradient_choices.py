"""What `Auto` decided in a run of the loop: the same in all its processes, and in the sessions that resume it."""

from typing import Any

from adjointdpm.gradients import Auto, resolve
from adjointdpm.processes import Processes
from adjointdpm.rendering import Renderer

Choices = dict[str, dict[str, Any]]  # as `Auto.decisions` has them


def agreed(render: Renderer, processes: Processes, before: Choices) -> Choices:
    """What the renderer's `Auto` has decided so far, from now on the same in all processes; nothing for other methods.

    Each process measures on its own examples; the main one's decision counts, or if it had none to measure on, that of the first that had.
    What was agreed `before` and any process has given up since, because its examples need a closer look, is given up by all. Every process
    must call this.
    """
    method = resolve(render.gradient)
    if not isinstance(method, Auto):
        return {}
    choices: Choices = {}
    everyone = processes.gather([method.decisions(render.model.network)])
    given_up = {kind for kind in before if any(kind not in decided for decided in everyone)}
    for decided in everyone:
        choices |= {kind: facts for kind, facts in decided.items() if kind not in choices and kind not in given_up}
    adopt(render, choices)
    return choices


def adopt(render: Renderer, choices: Choices) -> None:
    """Let the renderer's `Auto` go on with what was decided, without measuring again; other methods need nothing."""
    method = resolve(render.gradient)
    if isinstance(method, Auto):
        method.decide(render.model.network, choices)
