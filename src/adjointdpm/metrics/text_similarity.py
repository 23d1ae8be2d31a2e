"""How little a picture shows what a text says."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import InvalidInputError
from adjointdpm.metrics.base import Images, Metric, Scores
from adjointdpm.metrics.classifier import Classifier
from adjointdpm.metrics.networks import Clip, Judge, load_network, placed
from adjointdpm.metrics.subject_recognition import named_concepts
from adjointdpm.support.named_options import quoted


@dataclass(frozen=True)
class TextSimilarity(Metric):
    """Distance between pictures and a text.

    With a CLIP model 1 − cosine of its two vectors, in [0, 2]. Without one, cross-entropy of the
    bundled judge for the one concept that the text names, as in `Classifier`; the rest of the text
    is then ignored, and the judge cannot judge the result any more.

    Args:
        text: what the pictures should show.
        model: the folder or hub id of a CLIP model in transformers' layout; None for the bundled
            judge.

    Raises:
        InvalidInputError: no text; or, without a model, a text that names no concept of the
            judge's, or several.
        ModelError: no CLIP model there.

    """

    text: str
    model: str | None = None
    smallest = 8
    hackable = True

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InvalidInputError(f"similarity metric: text={self.text!r} must be some words")
        _ = self._by_judge if self.model is None else self._vector

    @property
    def name(self) -> str:
        """The text that makes this metric, without its model."""
        return f"similarity:text={quoted(self.text)}"

    @property
    def asks_judge(self) -> bool:
        """Without a CLIP model."""
        return self.model is None

    def __call__(self, images: Images, /, prompts: Sequence[str] | None = None) -> Scores:
        """Distance of each picture."""
        if self.model is None:
            return self._by_judge(images)
        return 1 - placed(self._clip, images)(images) @ self._vector.to(images)

    @cached_property
    def _by_judge(self) -> Classifier:
        judge = load_network("judge")
        assert isinstance(judge, Judge)
        return Classifier(target=concept_in(self.text, judge.concepts), network=judge)

    @cached_property
    def _clip(self) -> Clip:
        assert self.model is not None
        return Clip(self.model)

    @cached_property
    def _vector(self) -> Float[Tensor, " D"]:
        return self._clip.encode(self.text)


def concept_in(text: str, concepts: list[str]) -> str:
    """The one concept that a text names, by whole words; "hot dog" is no dog.

    Raises:
        InvalidInputError: the text names none, or several.

    """
    names = sorted(named_concepts(text, concepts))
    if len(names) != 1:
        raise InvalidInputError(
            f"text {text!r} must name exactly one thing that the bundled judge knows, not "
            f"{', '.join(names) or 'none'}; it knows {', '.join(concepts)}; or give model=, a CLIP "
            f"model"
        )
    return names[0]
