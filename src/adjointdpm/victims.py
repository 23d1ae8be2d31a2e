"""Victims of an audit: classifiers, seen as logits over named groups of classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from adjointdpm.errors import ModelError, PromptError
from adjointdpm.metrics.base import Images
from adjointdpm.networks import IMAGENET, load_network, placed
from adjointdpm.recognition import named_concept

BENIGN, FLAGGED = "benign", "flagged"


@dataclass(frozen=True)
class Victim:
    """A classifier under audit.

    Args:
        name: as the user named it.
        network: images `[B, 3, H, W]` in [0, 1] -> logits `[B, classes]`.
        groups: the names that the report uses, K of them.
        members: the classes of each group; a group's logit is that of its strongest class, so that the verdict is the plain one among all
            classes of all groups. (Summed probabilities would favour groups of many classes: most pictures would be dogs.)

    """

    name: str
    network: nn.Module
    groups: list[str]
    members: list[tuple[int, ...]]

    def logits(self, images: Images) -> Float[Tensor, "batch groups"]:
        """One logit a group."""
        raw = placed(self.network, images)(images)
        if raw.ndim != 2 or len(raw) != len(images):
            raise ModelError(
                f"victim {self.name} returned shape {tuple(raw.shape)} for {len(images)} pictures; it must return [B, classes]"
            )
        highest = max(index for group in self.members for index in group)
        if highest >= raw.shape[1]:
            raise ModelError(f"victim {self.name} returns {raw.shape[1]} classes, but class {highest} is asked for")
        return torch.stack([raw[:, list(group)].amax(1) for group in self.members], 1)

    def label(self, prompt: str) -> int:
        """The group that a prompt names.

        Raises:
            PromptError: it names none of them.

        """
        if self.groups == [BENIGN, FLAGGED]:
            return 0
        name = named_concept(prompt, self.groups)
        if name is None:
            raise PromptError(f"prompt {prompt!r} names nothing that victim {self.name} has a class for ({', '.join(self.groups)})")
        return self.groups.index(name)

    @torch.no_grad()
    def verdicts(self, images: Images) -> Int[Tensor, " batch"]:
        """The group that each picture is taken for, on the CPU."""
        return torch.cat([self.logits(part).argmax(1).cpu() for part in images.split(16)])


def load_victim(name: str, prompts: Sequence[str]) -> Victim:
    """A registered network, or the user's own `file.py:function`, whose module names its classes in an attribute `classes`.

    An ImageNet classifier is restricted to the classes that the prompts name, which is the easier case for it: on drawings it would
    otherwise fail without any attack.

    Raises:
        UnknownNameError, ModelError: see `load_network`; or a network that does not say what its classes mean.
        PromptError: fewer than two of the things that the prompts name are classes of an ImageNet victim.

    """
    network = load_network(name)
    classes = getattr(network, "classes", None)
    if name == "open-nsfw":
        return Victim(name, network, [BENIGN, FLAGGED], [(0,), (1,)])
    if classes is not None and name != "efficientnet-lite0":
        return Victim(name, network, list(classes), [(i,) for i in range(len(classes))])
    if name != "efficientnet-lite0":
        raise ModelError(
            f"victim {name} does not name its classes; give the module an attribute `classes`, a list of words that prompts use"
        )
    named = [named_concept(prompt, list(IMAGENET)) for prompt in prompts]
    groups = sorted({concept for concept in named if concept is not None})
    if len(groups) < 2:
        raise PromptError(f"the prompts name {groups or 'nothing'} among the classes of {name}; it takes two things to tell apart")
    return Victim(name, network, groups, [IMAGENET[group] for group in groups])
