"""The classifier that `vocabulary.py` and `aligned.py` optimise against.

Its widths, its seed and its batches are not those of the bundled judge.

`python -m training.judges --minutes 6 --widths 16,40,80,112 --seed 11 --placements 150 --folder
training/work/critic` trains it. As a metric it is written
`classifier:network=benchmarks/critic.py:load,target=pear`; for what each prompt names,
`benchmarks/critic.py:named`.

Limitation: judge and critic are of one family and learned from the same pictures, so they may share
mistakes. What fools the critic can fool the judge too, more than it would fool a stranger: the
judge's verdict is an optimistic one.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.errors import ModelError, PromptError
from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.metrics.subject_recognition import named_concept

FOLDER = Path(__file__).parents[1] / "training" / "work" / "critic"


class Concepts(nn.Module):
    """Concept logits of a judge in a folder.

    Attributes:
        classes: the concepts' names, in the order of the logits.

    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.network = Judge.load(folder)
        self.classes = self.network.concepts

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Unnormalised log-probabilities of `classes`."""
        return self.network.concept_logits(images)


def load() -> nn.Module:
    """The critic of `FOLDER`."""
    return Concepts(FOLDER)


def metric(concept: str) -> str:
    """The critic's cross-entropy to a concept, as the tasks take a metric."""
    return f"classifier:network={Path(__file__).resolve()}:load,target={concept}"


def named(images: Float[Tensor, "B 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " B"]:
    """The critic's cross-entropy to the concept of each prompt, and to its style if it names one.

    Raises:
        PromptError: a prompt that names no concept of the critic.

    """
    network = _read(FOLDER)
    features = network.pooled(images)
    concepts = [named_concept(prompt, network.concepts) for prompt in prompts]
    for prompt, concept in zip(prompts, concepts, strict=True):
        if concept is None:
            raise PromptError(f"prompt {prompt!r} names nothing that the critic in {FOLDER} knows")
    styles = [named_concept(prompt, network.styles) for prompt in prompts]
    of_concept = _cross_entropy(network.concept(features), concepts, network.concepts)
    return of_concept + _cross_entropy(network.style(features), styles, network.styles)


@cache
def _read(folder: Path) -> Judge:
    return Judge.load(folder)


def _cross_entropy(
    logits: Float[Tensor, "B K"], wanted: Sequence[str | None], classes: Sequence[str]
) -> Float[Tensor, " B"]:
    """−log p of the class that each row wants; 0 where it wants none."""
    ignored = -100
    target = [ignored if name is None else classes.index(name) for name in wanted]
    return F.cross_entropy(
        logits, torch.tensor(target, device=logits.device), reduction="none", ignore_index=ignored
    )


def fingerprint(folder: Path | None = None) -> str:
    """Which critic it is: results of two critics do not belong into one table."""
    folder = folder or FOLDER
    try:
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise ModelError(
            f"there is no critic in {folder} ({error}); train it with training/judges.py --folder "
            f"{folder}"
        ) from error
