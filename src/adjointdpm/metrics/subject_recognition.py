"""Which concept a text names, and whether a picture still shows what its prompt names."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from adjointdpm.metrics.networks.judge import Judge

# Pictures, and the prompts that they were drawn for -> whether each still shows what its prompt
# names.
Recogniser = Callable[[Float[Tensor, "batch 3 height width"], Sequence[str]], list[bool]]

TOP = 5


def named_concepts(text: str, concepts: Sequence[str]) -> list[str]:
    """The concepts that a text names in whole words: the longest first, and of equals the last.

    A word counts once, for the longest name that it is part of: "hot dog" names no dog.
    """
    found = sorted(
        (
            (len(name), match.start(), name)
            for name in concepts
            for match in re.finditer(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)
        ),
        reverse=True,
    )
    names, taken = [], set()
    for length, start, name in found:
        where = set(range(start, start + length))
        if not where <= taken and name not in names:
            names.append(name)
        taken |= where
    return names


def named_concept(prompt: str, concepts: Sequence[str]) -> str | None:
    """The first of `named_concepts`; None if there is none."""
    return next(iter(named_concepts(prompt, concepts)), None)


@dataclass(frozen=True)
class SubjectJudge:
    """Asks the judge whether the concept that a prompt names is among its first `top`.

    Args:
        judge: who is asked.
        top: how many places count.

    """

    judge: Judge
    top: int = TOP
    lost_in_words = "subjects that the judge no longer finds"

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> list[bool]:
        """As a `Recogniser`."""
        concepts = self.judge.concepts
        best = self.judge.concept_logits(images).topk(self.top).indices.tolist()
        names = [named_concept(prompt, concepts) for prompt in prompts]
        return [
            name is not None and concepts.index(name) in found
            for name, found in zip(names, best, strict=True)
        ]

    def clearly(self) -> "SubjectJudge":
        """The same, for the judge's first concept alone."""
        return replace(self, top=1)


def recogniser_for(
    prompts: Sequence[str], model: str = "tiny", *, optimised: bool = False
) -> Recogniser | None:
    """The bundled judge, or None where its verdict would say nothing.

    Args:
        prompts: each must name something that the judge knows.
        model: what draws the pictures; the judge knows those of "tiny".
        optimised: whether the pictures are optimised against the judge itself.

    """
    if model != "tiny" or optimised:
        return None
    return None if unfamiliar(prompts) else SubjectJudge(Judge.load())


def unfamiliar(prompts: Sequence[str]) -> list[str]:
    """Those of the prompts that name nothing which the bundled model and its judge have seen."""
    concepts = Judge.load().concepts
    return [p for p in dict.fromkeys(prompts) if named_concept(p, concepts) is None]
