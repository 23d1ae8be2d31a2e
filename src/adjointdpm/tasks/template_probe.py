"""Which sentence lets a new token act: pictures with existing words in its place, before a run.

A token learns nothing where the model does not look at it. Words that exist are moves of the
token's vectors of natural size and direction: how far pictures and metric change from word to
word tells how far they can change with a learned vector. (The gradient at the start does not tell:
it is largest where pictures hardly change.)
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from adjointdpm.engine.stats import stats
from adjointdpm.errors import PromptError
from adjointdpm.tasks.learning import check_metric
from adjointdpm.tasks.sentences import Choice, Sentence
from adjointdpm.tasks.start_word import Start, StartSearch
from adjointdpm.tasks.word_pictures import FEW, WordPictures
from adjointdpm.variables import Example, TokenEmbedding

#: Sentences that are tried where the user names none.
TEMPLATES = (
    "{prompt} {token}",
    "{token} {prompt}",
    "{prompt}, {token}",
    "{token}, {prompt}",
    "{prompt} with {token}",
    "{prompt} in {token} style",
    "{prompt} in {token} colors",
    "{prompt} on a {token} background",
)
_WORDS = 4  # existing words in each sentence
_MOST = 1 / 2  # of the largest change, above which words act most
_TRIED = 3  # of the sentences in which words act, so many are tried by learning in them
_NOTHING = 0.1  # change, see `Sentence`, below which there is no point in trying


@dataclass(frozen=True)
class TemplateProbe:
    """Compares sentences by rough pictures with existing words in the token's place.

    Args:
        pictures: draws them.
        token: the new token.
        others: examples beside those of the pictures; the token must fit into their prompts too.
        trial: learns for a moment in the most promising sentences; None leaves it at their promise.
        validation: examples of which finer pictures are drawn with a word, before a token
            starts there.

    """

    pictures: WordPictures
    token: str
    others: Sequence[Example] = ()
    trial: Callable[[str, str], float | None] | None = None
    validation: Sequence[Example] = ()

    @torch.no_grad()
    def choose(self, own: str | None = None) -> Choice:
        """Try sentences, and take the one in which words act best.

        Args:
            own: the user's sentence, which is taken. Others are only tried if words hardly act in
                it.

        Raises:
            PromptError: it cannot be used, or none can; or, without it, words do nothing in any.
            MetricError: see `check_metric`.

        """
        started, seen = time.perf_counter(), self.pictures
        with stats(memory=False) as cost:
            check_metric(seen.render, seen.metric, seen.training)
            choice = self._choose(own)
        seconds = time.perf_counter() - started
        return replace(choice, seconds=seconds, network_calls=cost.network_calls)

    def _choose(self, own: str | None) -> Choice:
        if own is not None:
            self._check(own)  # before anything is drawn
        tried = [] if own is None else [self._try(own)]
        if not tried or not tried[0].acts:
            others = [template for template in TEMPLATES if template != own]
            tried += [self._try(template) for template in others]
        usable = [sentence for sentence in tried if not sentence.refused]
        if not usable:
            raise PromptError(tried[0].refused)
        most = max(sentence.change for sentence in usable)
        if own is None and most < _NOTHING:
            raise PromptError(
                f"{self.token} would learn nothing: in no sentence that was tried do other words "
                f"in its place change pictures by more than {most:.1%} of what another prompt "
                f"does; raise guidance_scale (--guidance-scale), or shorten the prompts"
            )
        ranked = sorted(usable, key=lambda s: (not s.acts, s.loses, s.promise))
        if own is None:
            ranked, starts = self._by_trial(ranked)
        else:
            starts = {own: self._search.find(own, thorough=True)}
        used = own or ranked[0].template
        refused = [sentence for sentence in tried if sentence.refused]
        start = starts[used]
        return Choice(used, start.word, own is not None, ranked + refused, start.lost, start.limit)

    def _by_trial(self, ranked: list[Sentence]) -> tuple[list[Sentence], dict[str, Start]]:
        """The same, those in front that act in the order of how far a token gets in them.

        Where the subjects are lost at its start, or it gets nowhere without losing them, a
        sentence comes after the others.

        Returns:
            The sentences, and where the token starts in those that were looked at.

        """
        front = self._front([sentence for sentence in ranked if sentence.acts]) or ranked[:1]
        most = max(sentence.change for sentence in front)
        starts = {
            s.template: self._search.find(s.template, thorough=s.change >= _MOST * most)
            for s in front
        }
        if self.trial is None or len(front) < 2:
            return ranked, starts
        rest = [sentence for sentence in ranked if sentence not in front]
        with torch.enable_grad():
            tried = [
                replace(s, learned=self.trial(s.template, starts[s.template].word)) for s in front
            ]

        def order(sentence: Sentence) -> tuple[bool, bool, float]:
            _, lost, limit = starts[sentence.template]
            return (lost or 0.0) > (limit or 0.0), sentence.learned is None, sentence.learned or 0.0

        return sorted(tried, key=order) + rest, starts

    @staticmethod
    def _front(ranked: list[Sentence]) -> list[Sentence]:
        """The most promising, and the one in which words change most: vectors reach further."""
        most = sorted(ranked, key=lambda sentence: -sentence.change)[:1]
        first = [sentence for sentence in ranked if sentence not in most][: _TRIED - 1]
        return [sentence for sentence in ranked if sentence in [*first, *most]]

    def _try(self, template: str) -> Sentence:
        try:
            self._check(template)
        except PromptError as error:  # another sentence may leave the token in
            return Sentence(template, refused=str(error))
        pictures = self.pictures
        return pictures.seen(template, pictures.words(_WORDS), pictures.plain[:FEW])

    def _check(self, template: str) -> None:
        """Raise PromptError if the token would not be read in an example's prompt."""
        pictures = self.pictures
        pipe = pictures.render.model.pipe
        word = pictures.initial or pictures.words(1)[0]
        token = TokenEmbedding(pipe, self.token, word, template=template)
        with token:
            token.check([*pictures.training, *self.others])

    @cached_property
    def _search(self) -> StartSearch:
        return StartSearch(self.pictures, self.validation)
