"""What every part of an audit needs to know, checked before the first picture is drawn."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from adjointdpm.errors import (
    CutPromptWarning,
    PromptError,
    UnknownNameError,
    UnsupportedError,
)
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines.arguments.call_arguments import call_arguments
from adjointdpm.pipelines.arguments.cut_prompts import read_part
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.victims import Victim, load_victim
from adjointdpm.tasks.learning import renderer
from adjointdpm.variables import Example

Report = Callable[[str, float, int], None]  # what is going on, done, of how many


class Target(NamedTuple):
    """What an attack aims at.

    Args:
        name, group: the class that the victim shall see; None is any wrong one.

    """

    name: str | None
    group: int | None

    def view(self, budget: float, first: bool) -> str:
        """What reports call the pictures within a budget; the first target's have a short name."""
        return f"budget_{budget:g}" if first else f"target_{self.group}_budget_{budget:g}"


@dataclass(frozen=True)
class Setting:
    """An audit's model, victims, judge and prompts.

    Args:
        config: what to do.
        render: draws the pictures.
        victim: the classifier that is attacked.
        second: another one that the findings are tried on.
        recognise: an independent judge.
        labels: by the prompt's number, the victim's group of each prompt that it has a class for.
        targets: what to aim at, one after the other.

    """

    config: AuditConfig
    render: Renderer
    victim: Victim
    second: Victim | None
    recognise: Recogniser | None
    labels: dict[int, int]
    targets: list[Target]

    @property
    def set_aside(self) -> list[str]:
        """The prompts that the victim has no class for, as far as the model reads them."""
        return [p for i, p in enumerate(self.config.prompts) if i not in self.labels]

    @property
    def views(self) -> list[tuple[Target, float, str]]:
        """Target, budget and name of each attack, in the order in which they are made."""
        return [
            (target, budget, target.view(budget, number == 0))
            for number, target in enumerate(self.targets)
            for budget in self.config.budget
        ]


def check_setting(
    model: Any, config: AuditConfig, victim: Victim | None, recognise: Recogniser | None
) -> Setting:
    """Load what the config names, and check that it fits together.

    Raises:
        PromptError: the victim, or the second one, has a class for none of the prompts, as far as
            the model reads them.
        ModelError, UnknownNameError: a victim or a target that is not there.
        UnsupportedError: the pipeline makes no pictures.

    """
    victim = victim or load_victim(config.victim, config.prompts)
    second = None if config.transfer is None else load_victim(config.transfer, config.prompts)
    labels = {i: label_of(victim, prompt) for i, prompt in enumerate(config.prompts)}
    labelled = [i for i, label in labels.items() if label is not None]
    longest = call_arguments(model.pipe, config.pipeline_arg).get("max_sequence_length")
    cut = [i for i in labelled if _is_cut(model, victim, config.prompts[i], longest)]
    for i in cut:
        labels[i] = None
    if cut:
        _tell_of_cut([config.prompts[i] for i in cut])
    known = {i: label for i, label in labels.items() if label is not None}
    if not known and cut:
        raise PromptError(
            f"the model reads of none of the prompts what victim {victim.name} has a class for: it "
            "stands in the part that is cut off; shorten the prompts, or name the subject first"
        )
    if not known:
        victim.label(config.prompts[0])  # says what it has classes for
    if second is not None and all(label_of(second, config.prompts[i]) is None for i in known):
        raise PromptError(
            f"none of the prompts that victim {victim.name} knows names anything that the second "
            f"victim, {second.name}, has a class for: {', '.join(second.groups)}"
        )
    targets = [_target(victim, name) for name in config.targets]
    render = renderer(model, config)
    _check_pictures(render, Example(config.prompts[next(iter(known))], config.seed), victim)
    return Setting(config, render, victim, second, recognise, known, targets)


def _is_cut(model: Any, victim: Victim, prompt: str, longest: int | None) -> bool:
    """Whether the model does not read what a prompt names."""
    return label_of(victim, read_part(model.pipe, prompt, longest)) != label_of(victim, prompt)


def _tell_of_cut(prompts: list[str]) -> None:
    warnings.warn(
        f"{len(prompts)} prompts are set aside, since what they name stands in the part that the "
        f"model's tokenizer cuts off: {', '.join(map(repr, prompts))}; shorten them, or name the "
        "subject first",
        CutPromptWarning,
        stacklevel=2,
    )


def label_of(victim: Victim, prompt: str) -> int | None:
    """The group that a prompt names; None if the victim has no class for it."""
    try:
        return victim.label(prompt)
    except PromptError:
        return None


def _target(victim: Victim, name: str | None) -> Target:
    if name is None:
        return Target(None, None)
    if name not in victim.groups:
        raise UnknownNameError(
            f"target {name!r} is no class of victim {victim.name}; choose one of "
            f"{', '.join(victim.groups)}"
        )
    return Target(name, victim.groups.index(name))


def _check_pictures(render: Renderer, example: Example, victim: Victim) -> None:
    """Raise UnsupportedError unless the pipeline makes pictures, at which the victim can look."""
    shape = render.sample_shape(example)
    if len(shape) != 3 or shape[0] != 3:
        raise UnsupportedError(
            f"{type(render.model.pipe).__name__} makes samples of shape {shape}, and victim "
            f"{victim.name} looks at pictures (3, H, W)"
        )
