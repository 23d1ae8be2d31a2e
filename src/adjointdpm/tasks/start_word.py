"""The existing word that a new token starts from."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from typing import NamedTuple

from torch import Tensor

from adjointdpm.metrics import score
from adjointdpm.optimization.guard import Guard
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.tasks.judge_guard import told_of_untouched
from adjointdpm.tasks.word_pictures import FEW, WordPictures
from adjointdpm.variables import Example

FINE_STEPS = 10  # sampler steps at most, which tell whether a word leaves the subjects
_STARTS = 48  # existing words, in a sentence where words act most,
_FEW_STARTS = 8  # and in others
_CHECKED = 6  # of them, the best first, so many are compared in finer pictures,
_FEW_CHECKED = 2  # and in others


class Start(NamedTuple):
    """Where a token starts.

    Args:
        word: an existing one.
        lost: the share of the subjects that pictures lose there, unclear ones counted as half lost;
            None: nobody can tell.
        limit: the share that may be.

    """

    word: str
    lost: float | None = None
    limit: float | None = None


def checked_start(
    words: Iterable[str], look: Callable[[str], tuple[float | None, float]], limit: float
) -> Start:
    """Of a few words, the one with the best objective among those that keep the subjects.

    If all lose more than they may, it is the one that loses least.

    Args:
        words: some, all of which are looked at.
        look: draws with a word in the token's place, and says which share of the subjects is lost
            and what the objective is.
        limit: what may be lost.

    """
    seen = [(*look(word), word) for word in words]
    lost, _, word = min(seen, key=lambda row: (max(row[0] or 0.0, limit), row[1]))
    return Start(word, lost, None if lost is None else limit)


@dataclass(frozen=True)
class StartSearch:
    """Looks through existing words for the one that a token starts at.

    Args:
        pictures: draws rough pictures with a word.
        validation: examples of which finer pictures are drawn, with the best of the words.

    """

    pictures: WordPictures
    validation: Sequence[Example] = ()

    def find(self, template: str, *, thorough: bool) -> Start:
        """The word that the token starts at: the best that leaves subjects in finer pictures.

        Args:
            template: the sentence.
            thorough: whether to look through many words: where words act, they differ.

        """
        pictures = self.pictures
        if pictures.initial is not None:
            words = [pictures.initial]
        elif thorough:
            words = self._by_objective(template, pictures.plain, pictures.words(_STARTS))
        else:
            words = self._by_objective(template, pictures.plain[:FEW], pictures.words(_FEW_STARTS))
        if not self.validation:
            return Start(words[0])
        examples = list(self.validation)
        known, untouched = [example.prompt for example in examples], self._untouched
        guard = self._guard
        # One unclear subject of very few is no reason against a start.
        limit = 0.0 if guard is None else max(guard.limit({}), 0.5 / len(examples))

        def look(word: str) -> tuple[float | None, float]:
            written = [template.format(prompt=p, token=word) for p in known]
            pairs = zip(examples, written, strict=True)
            images = self._fine.look([e._replace(prompt=p) for e, p in pairs])
            lost = None
            if guard is not None:
                lost = score(guard.metric, images, known).mean().item()
            return lost, pictures.objective(images, untouched, known)

        return checked_start(words[: _CHECKED if thorough else _FEW_CHECKED], look, limit)

    def _by_objective(self, template: str, plain: Tensor, words: Sequence[str]) -> list[str]:
        """Words in the order of their rough pictures' objective.

        Rough pictures show a subject less well than others: in turn there comes a word that keeps
        the subjects in them, and one of all.
        """
        seen = self.pictures.seen(template, words, plain)
        keeping = {} if seen.loses else seen.objectives
        every = {**seen.losing, **seen.objectives}
        orders = [sorted(found, key=found.__getitem__) for found in (keeping, every)]
        pairs = zip_longest(*orders)
        return list(dict.fromkeys(word for pair in pairs for word in pair if word is not None))

    @cached_property
    def _guard(self) -> Guard | None:
        """What says which subjects are lost in the finer pictures, and how many may be.

        A start is one of many: subjects that are unclear count as half lost.
        """
        content, prompts = self.pictures.content, [example.prompt for example in self.validation]
        found = content and content.guard(self._untouched, prompts, len(prompts))
        return found and told_of_untouched(found.for_choice(), self._untouched, prompts)

    @cached_property
    def _fine(self) -> Renderer:
        """Draws the finer pictures."""
        return replace(self.pictures.render, steps=min(self.pictures.render.steps, FINE_STEPS))

    @cached_property
    def _untouched(self) -> Tensor:
        """Finer pictures of the validation examples, without a word."""
        return self._fine.look(self.validation)
