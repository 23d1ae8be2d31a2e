"""Which prompts an audit may attack: those whose clean pictures the victim mostly gets right."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import PromptError
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.resumable_steps import Once, Saved, unsaved
from adjointdpm.tasks.audit.attack import as_saved
from adjointdpm.tasks.audit.victims import Victim
from adjointdpm.tasks.config import number
from adjointdpm.variables import Example

Report = Callable[[str, int, int], None]  # what is going on, done, of how many


@dataclass(frozen=True)
class Clean:
    """Prompts that the victim gets right, with one clean picture each.

    Args:
        examples: the prompts, each with the seed of its picture.
        labels: the victim's group of each.
        pictures: clamped and rounded as on file.
        right: of all prompts, the share of the pictures drawn that the victim gets right.

    """

    examples: list[Example]
    labels: list[int]
    pictures: Float[Tensor, "n 3 height width"]
    right: dict[str, float]

    def saved(self) -> Saved:
        """Tensors, and facts that JSON can hold."""
        facts = {"examples": self.examples, "labels": self.labels, "right": self.right}
        return {"pictures": self.pictures}, facts

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Self:
        """What `saved` had returned."""
        examples = [Example(*example) for example in facts["examples"]]
        return cls(examples, facts["labels"], tensors["pictures"], facts["right"])


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
    once: Once = unsaved,
) -> Clean:
    """Test the victim on every prompt; keep the first right picture of those it gets right.

    With a judge, that picture must also be one in which the judge sees what the prompt names. A
    prompt that cannot qualify any more is dropped, and no more pictures are drawn at a time than
    that may take.

    Args:
        render: draws the pictures.
        victim: must get at least `least_right` of a prompt's pictures right.
        prompts: each names something that the victim has a class for.
        seeds: pictures of each prompt.
        least_right: a share of them.
        seed: decides which pictures.
        recognise: the judge.
        report: called before each prompt.
        once: does and keeps the test of one prompt; an interruption costs no more than that.

    Raises:
        PromptError: a prompt names nothing that the victim knows, or no prompt is left.

    """
    # 0.8 · 20 is 16 pictures and not 16.000000000000004
    allowed = seeds - math.ceil(least_right * seeds - 1e-9)
    named = [victim.label(prompt) for prompt in prompts]  # may raise, so before the first picture
    examples, labels, pictures, right = [], [], [], {}
    for index, (prompt, label) in enumerate(zip(prompts, named, strict=True)):
        report("testing the victim on clean pictures", index, len(prompts))
        drawn = number([prompt] * seeds, (seed * len(prompts) + index) * seeds)
        test = partial(_test, render, victim, drawn, label, allowed, recognise)
        tensors, facts = once(str(index), test)
        right[prompt] = facts["right"]
        if tensors:
            examples.append(Example(prompt, facts["seed"]))
            labels.append(label)
            pictures.append(tensors["picture"])
    if not examples:
        best = max(right, key=lambda prompt: right[prompt])
        raise PromptError(
            f"victim {victim.name} gets no prompt right on {least_right:.0%} of {seeds} clean "
            f"pictures; the best is {best!r} with {right[best]:.0%}. Errors that it makes without "
            f"an attack prove nothing: use other prompts, or another victim"
        )
    return Clean(examples, labels, torch.stack(pictures), right)


def _test(
    render: Renderer,
    victim: Victim,
    examples: Sequence[Example],
    label: int,
    allowed: int,
    recognise: Recogniser | None,
) -> Saved:
    """Test the victim on one prompt's pictures, until it is wrong more often than allowed.

    Returns:
        The share `right` of the pictures drawn, and if the prompt qualifies `picture`, `[3, H, W]`,
        with its `seed`.

    """
    drawn, wrong, usable = 0, 0, []
    while drawn < len(examples) and wrong <= allowed:
        part = examples[drawn : drawn + allowed + 1 - wrong]
        drawn += len(part)
        images = as_saved(render.look(part))
        hits = victim.verdicts(images) == label
        wrong += int((~hits).sum())
        if recognise is not None:
            hits &= torch.tensor(recognise(images, [example.prompt for example in part]))
        usable += [(part[i].seed, images[i]) for i in hits.nonzero()[:, 0].tolist()]
    facts = {"right": 1 - wrong / drawn}
    if wrong > allowed or not usable:
        return {}, facts
    return {"picture": usable[0][1]}, facts | {"seed": usable[0][0]}
