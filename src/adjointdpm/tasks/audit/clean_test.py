"""Which prompts an audit may attack: those whose clean pictures the victim mostly gets right."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import PromptError
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.resumable_steps import Once, Saved
from adjointdpm.tasks.audit.goal import as_saved
from adjointdpm.tasks.audit.kept_work import KeptWork
from adjointdpm.tasks.audit.picture_store import PictureStore
from adjointdpm.tasks.audit.setting import Report, Setting
from adjointdpm.tasks.audit.shared_blocks import SharedBlocks, block_size
from adjointdpm.tasks.audit.victims import Victim
from adjointdpm.tasks.config import number
from adjointdpm.variables import Example

_MOST = 16  # prompts in a block


class CleanExample(NamedTuple):
    """A prompt that the victim gets right, with one clean picture.

    Args:
        number: of the prompt, from 0.
        example: the prompt, with the seed of its picture.
        label: the victim's group.

    """

    number: int
    example: Example
    label: int


class CleanTest(NamedTuple):
    """What came of the prompts.

    Args:
        examples: those that may be attacked, in the order of the prompts.
        right: by prompt, the share of the pictures drawn that the victim gets right.
        network_calls: what it took.

    """

    examples: list[CleanExample]
    right: dict[str, float]
    network_calls: int


def find_clean(
    setting: Setting, shared: SharedBlocks, kept: KeptWork, pictures: PictureStore, report: Report
) -> CleanTest:
    """Test the victim on every prompt; keep the first right picture of those it gets right.

    With a judge, that picture must also be one in which the judge sees what the prompt names. A
    prompt that cannot qualify any more is dropped, and no more pictures are drawn at a time than
    that may take.

    Raises:
        PromptError: no prompt is left, or all that are left are of the class that is aimed at.
        Interrupted: some process was asked to stop.

    """
    numbers = list(setting.labels)
    size = block_size(len(numbers), _MOST)
    blocks = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    names = [f"clean-{i:05d}" for i in range(len(blocks))]

    def work(block: int) -> None:
        done = sum(len(blocks[i]) for i, name in enumerate(names) if shared.done(name))

        def tell(tested: int) -> None:
            report("testing the victim on clean pictures", done + tested, len(numbers))

        test = partial(_test_block, setting, blocks[block], pictures, tell)
        kept(names[block], partial(test, kept.within(names[block])))

    shared.share(names, work)
    facts = [shared.facts(name) for name in names]
    tested = [row for block in facts for row in block["tested"]]
    prompts = setting.config.prompts
    examples = [
        CleanExample(i, Example(prompts[i], seed), setting.labels[i])
        for i, _, seed in tested
        if seed is not None
    ]
    right = {prompts[i]: share for i, share, _ in tested}
    _check_left(setting, examples, right)
    return CleanTest(examples, right, sum(block["calls"] for block in facts))


def _test_block(
    setting: Setting, numbers: list[int], pictures: PictureStore, tell: Any, once: Once
) -> Saved:
    """Test the prompts of these numbers: of each its number, share right, and seed or None."""
    config, tested = setting.config, []
    # 0.8 · 20 is 16 pictures and not 16.000000000000004
    allowed = config.clean_seeds - math.ceil(config.least_right * config.clean_seeds - 1e-9)
    for position, i in enumerate(numbers):
        tell(position)
        first = (config.seed * len(config.prompts) + i) * config.clean_seeds
        drawn = number([config.prompts[i]] * config.clean_seeds, first)

        def test(i: int = i, drawn: list[Example] = drawn) -> Saved:
            right, chosen = clean_picture(
                setting.render, setting.victim, drawn, setting.labels[i], allowed, setting.recognise
            )
            if chosen is not None:
                pictures.write(i, "clean", chosen[1])
            return {}, {"tested": (i, right, None if chosen is None else chosen[0])}

        tested.append(once(str(i), test)[1]["tested"])
    return {}, {"tested": tested}


def clean_picture(
    render: Renderer,
    victim: Victim,
    examples: Sequence[Example],
    label: int,
    allowed: int,
    recognise: Recogniser | None,
) -> tuple[float, tuple[int, Float[Tensor, "3 height width"]] | None]:
    """Test the victim on one prompt's pictures, until it is wrong more often than allowed.

    Returns:
        The share of the pictures drawn that the victim gets right; and if the prompt qualifies,
        the first right picture with its seed.

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
        usable += [(part[i].seed, images[i]) for i in hits.nonzero()[:, 0].tolist()][:1]
    return 1 - wrong / drawn, None if wrong > allowed or not usable else usable[0]


def _check_left(setting: Setting, examples: list[CleanExample], right: dict[str, float]) -> None:
    config, victim = setting.config, setting.victim
    if not examples:
        best = max(right, key=lambda prompt: right[prompt])
        raise PromptError(
            f"victim {victim.name} gets no prompt right on {config.least_right:.0%} of "
            f"{config.clean_seeds} clean pictures; the best is {best!r} with {right[best]:.0%}. "
            f"Errors that it makes without an attack prove nothing: use other prompts, or another "
            f"victim"
        )
    for target in setting.targets:
        if all(example.label == target.group for example in examples):
            raise PromptError(
                f"every prompt that victim {victim.name} gets right is of the target class "
                f"{target.name!r}"
            )
