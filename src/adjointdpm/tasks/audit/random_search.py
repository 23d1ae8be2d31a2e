"""Random search within the budget of an attack: what the attack is compared with."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from adjointdpm.engine.seeded_noise import mix, standard_normal
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.resumable_steps import Once, Saved, unsaved
from adjointdpm.tasks.audit.goal import Accept, Findings, Goal, as_saved, succeeds
from adjointdpm.variables import Example, Noise

_STREAM = 7  # of random numbers: apart from those that pictures start from


def random_search(
    render: Renderer,
    goal: Goal,
    examples: Sequence[Example],
    noise: Noise,
    *,
    tries: int,
    seed: int = 0,
    first: int = 0,
    accept: Accept | None = None,
    once: Once = unsaved,
) -> Findings:
    """Random noises at the edge of the same budget, until one fools the victim and is accepted.

    An example's noises depend on `seed`, the example and the number of the try alone.

    Args:
        render, goal, examples, noise, accept: those of `attack`.
        tries: noises of each example at most.
        seed: decides which.
        first: the number of the first try: above those that a smaller budget has spent.
        once: does and keeps each try: whom it fools.

    """
    values, start = noise.noise, noise.start
    found, fooled = start.clone(), torch.zeros(len(examples), dtype=torch.bool)
    spent = torch.zeros(len(examples), dtype=torch.long)

    def look(active: Tensor) -> Saved:
        part = [examples[i] for i in active.tolist()]
        pictures = as_saved(render.look(part, noise))
        return {"fooled": succeeds(goal.rows(active), pictures, part, accept)}, {}

    for number in range(first, first + tries):
        active = (~fooled).nonzero()[:, 0]
        if len(active) == 0:
            break
        with torch.no_grad():  # far out, so that the projection puts it on the edge
            for i in active.tolist():
                drawn = standard_normal(
                    start[i : i + 1], mix(seed, examples[i].seed), _STREAM, number
                )
                values[i] = start[i] + 1e3 * drawn[0]
        noise.project()
        tried, _ = once(str(number), partial(look, active))
        fooled[active], spent[active] = tried["fooled"], spent[active] + 1
        found[active] = values.detach()[active]
    with torch.no_grad():
        values.copy_(found)
    pictures = as_saved(render.look(examples, noise))
    return Findings(found, pictures, goal.victim.verdicts(pictures), fooled, spent)
