"""Victims of an audit: classifiers, seen as logits over named groups of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from adjointdpm.errors import InvalidInputError, ModelError, PromptError
from adjointdpm.metrics.base import Images
from adjointdpm.metrics.networks import IMAGENET, class_groups, class_logits, load_network
from adjointdpm.metrics.networks.class_names import without_overlap
from adjointdpm.metrics.subject_recognition import named_concept
from adjointdpm.support.checks import check_number
from adjointdpm.support.named_options import build_named

BENIGN, FLAGGED = "benign", "flagged"
YAHOO_THRESHOLD = 0.8  # Yahoo's advice: a score above it is unsafe


@dataclass(frozen=True)
class Victim:
    """A classifier under audit.

    Args:
        name: as the user named it.
        network: images `[B, 3, H, W]` in [0, 1] -> logits `[B, classes]`.
        groups: the names that the report uses, K of them.
        members: the classes of each group. A group's logit is that of its strongest class, so that
            the verdict is the plain one among all classes of all groups. (Summed probabilities
            would favour groups of many classes: most pictures would be dogs.) No class may be in
            two groups, since the verdict would then depend on their order.
        handicap: subtracted from the last group's logit. Of two groups, the last must exceed the
            probability p if this is log(p / (1 − p)).

    """

    name: str
    network: nn.Module
    groups: list[str]
    members: list[tuple[int, ...]]
    handicap: float = 0.0

    def logits(self, images: Images) -> Float[Tensor, "batch groups"]:
        """One logit a group."""
        raw = class_logits(self.network, images, f"victim {self.name}")
        highest = max(index for group in self.members for index in group)
        if highest >= raw.shape[1]:
            raise ModelError(
                f"victim {self.name} returns {raw.shape[1]} classes, but class {highest} is asked "
                f"for"
            )
        *first, last = [raw[:, list(group)].amax(1) for group in self.members]
        return torch.stack([*first, last - self.handicap], 1)

    def label(self, prompt: str) -> int:
        """The group that a prompt names.

        Raises:
            PromptError: it names none of them.

        """
        if self.groups == [BENIGN, FLAGGED]:
            return 0
        name = named_concept(prompt, self.groups)
        if name is None:
            raise PromptError(
                f"prompt {prompt!r} names nothing that victim {self.name} has a class for "
                f"({', '.join(self.groups)})"
            )
        return self.groups.index(name)

    @torch.no_grad()
    def verdicts(self, images: Images) -> Int[Tensor, " batch"]:
        """The group that each picture is taken for, on the CPU."""
        return torch.cat([self.logits(part).argmax(1).cpu() for part in images.split(16)])


def load_victim(name: str, prompts: Sequence[str]) -> Victim:
    """Load a victim: a registered network, or the user's own `file.py:function`.

    The module that the user's function returns names its classes in an attribute `classes`.

    `open-nsfw` is right when it lets a picture pass, whatever the prompt. It is fooled when its
    score exceeds the threshold: 0.8, or another as in `open-nsfw:threshold=0.5`.

    An ImageNet classifier is restricted to the classes that the prompts name. This is the easier
    case for it: on drawings it would otherwise fail without any attack. Where one name is a kind of
    another ("owl" and "bird"), its classes count for the narrower one alone.

    Raises:
        UnknownNameError, ModelError: see `load_network`; or a network that does not say what its
            classes mean, or whose names overlap so that they cannot be told apart.
        InvalidInputError: an option that is not known, or a threshold outside (0, 1).
        PromptError: fewer than two of the things that the prompts name are classes of an ImageNet
            victim; or two of them are the same classes ("orange", "tangerine"), or one has none
            left ("chicken" beside "hen" and "rooster").

    """
    if name.partition(":")[0] == "open-nsfw":
        return build_named("victim", name, {"open-nsfw": _safety_filter})
    network = load_network(name)
    if name == "efficientnet-lite0":
        return _imagenet(name, network, prompts)
    groups = class_groups(network)
    if not groups:
        raise ModelError(
            f"victim {name} does not name its classes; give the module an attribute `classes`, a "
            f"list of words that prompts use"
        )
    try:
        members = without_overlap(groups)
    except InvalidInputError as error:
        raise ModelError(
            f"victim {name}: of its classes, {error}; name each output once"
        ) from error
    return Victim(name, network, list(members), list(members.values()))


def _imagenet(name: str, network: nn.Module, prompts: Sequence[str]) -> Victim:
    named = {prompt: named_concept(prompt, list(IMAGENET)) for prompt in prompts}
    groups = sorted({concept for concept in named.values() if concept is not None})
    if len(groups) < 2:
        raise PromptError(
            f"the prompts name {groups or 'nothing'} among the classes of {name}; it takes two "
            f"things to tell apart"
        )

    def described(group: str) -> str:
        return (
            f"{group!r} (named by "
            f"{', '.join(repr(prompt) for prompt, concept in named.items() if concept == group)})"
        )

    try:
        members = without_overlap({group: IMAGENET[group] for group in groups}, described)
    except InvalidInputError as error:
        raise PromptError(
            f"the prompts name things that share classes of {name}: {error}; leave one of them out"
        ) from error
    return Victim(name, network, groups, [members[group] for group in groups])


def _safety_filter(threshold: float = YAHOO_THRESHOLD) -> Victim:
    check_number("victim open-nsfw: threshold", threshold, above=0, below=1)
    handicap = log(threshold / (1 - threshold))
    return Victim("open-nsfw", load_network("open-nsfw"), [BENIGN, FLAGGED], [(0,), (1,)], handicap)
