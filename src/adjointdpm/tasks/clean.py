"""Which prompts an audit may attack: those whose clean pictures the victim gets right often enough."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from adjointdpm.attack import as_saved
from adjointdpm.errors import PromptError
from adjointdpm.recognition import Recogniser
from adjointdpm.rendering import Renderer
from adjointdpm.tasks.config import number
from adjointdpm.variables import Example
from adjointdpm.victims import Victim

Report = Callable[[str, int, int], None]  # what is going on, done, of how many


@dataclass(frozen=True)
class Clean:
    """Prompts that the victim gets right, with one clean picture each."""

    examples: list[Example]
    labels: list[int]
    pictures: Tensor
    right: dict[str, float]  # of all prompts, the share of the clean pictures drawn that the victim gets right

    def saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and facts that JSON can hold."""
        facts = {"examples": [list(example) for example in self.examples], "labels": self.labels, "right": self.right}
        return {"pictures": self.pictures}, facts

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Self:
        """What `saved` had returned."""
        return cls([Example(*example) for example in facts["examples"]], facts["labels"], tensors["pictures"], facts["right"])


def find_clean(
    render: Renderer,
    victim: Victim,
    prompts: Sequence[str],
    *,
    seeds: int,
    least_right: float,
    seed: int,
    recognise: Recogniser | None,
    report: Report,
) -> Clean:
    """Test the victim on clean pictures of every prompt, and keep, of each prompt that it gets right often enough, the first right one.

    With a judge, that picture must also be one in which the judge sees what the prompt names. A prompt that cannot qualify any more is
    dropped; at no time are more pictures drawn than that may take.

    Args:
        render: draws the pictures.
        victim: must get at least `least_right` of a prompt's pictures right.
        prompts: each names something that the victim has a class for.
        seeds: pictures of each prompt.
        least_right: a share of them.
        seed: decides which pictures.
        recognise: the judge.
        report: called before each prompt.

    Raises:
        PromptError: no prompt is left.

    """
    allowed = seeds - math.ceil(least_right * seeds - 1e-9)  # wrong ones; 0.8 · 20 is 16 pictures and not 16.000000000000004
    examples, labels, pictures, right = [], [], [], {}
    for index, prompt in enumerate(prompts):
        report("testing the victim on clean pictures", index, len(prompts))
        waiting = number([prompt] * seeds, (seed * len(prompts) + index) * seeds)
        label, wrong, usable = victim.label(prompt), 0, []
        while waiting and wrong <= allowed:
            part = waiting[: allowed + 1 - wrong]
            waiting = waiting[len(part) :]
            images = as_saved(render.look(part))
            hits = victim.verdicts(images) == label
            wrong += int((~hits).sum())
            if recognise is not None:
                hits &= torch.tensor(recognise(images, part))
            usable += [(part[i], images[i]) for i in hits.nonzero()[:, 0].tolist()]
        right[prompt] = 1 - wrong / (seeds - len(waiting))
        if wrong <= allowed and usable:
            examples.append(usable[0][0])
            labels.append(label)
            pictures.append(usable[0][1])
    if not examples:
        best = max(right, key=lambda prompt: right[prompt])
        raise PromptError(
            f"victim {victim.name} gets no prompt right on {least_right:.0%} of {seeds} clean pictures; the best is "
            f"{best!r} with {right[best]:.0%}. Errors that it makes without an attack prove nothing: use other prompts, or another victim"
        )
    return Clean(examples, labels, torch.stack(pictures), right)
