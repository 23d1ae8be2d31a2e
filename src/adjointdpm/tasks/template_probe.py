"""Which sentence lets a new token act: pictures with existing words in its place, before a run.

A token learns nothing where the model does not look at it. Words that exist are moves of the
token's vectors of natural size and direction: how far pictures and metric change from word to
word tells how far they can change with a learned vector. (The gradient at the start does not tell:
it is largest where pictures hardly change.)
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import combinations, zip_longest
from typing import Any

import torch
from torch import Tensor

from adjointdpm.engine.stats import stats
from adjointdpm.errors import CheckpointError, PromptError
from adjointdpm.metrics import Metric, structure_distance
from adjointdpm.optimization.content_weight import scaled
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.distributed import Processes
from adjointdpm.support.files import write_text
from adjointdpm.tasks.learning import check_metric
from adjointdpm.tasks.start_word import Start, checked_start, common_words
from adjointdpm.variables import Example, TokenEmbedding
from adjointdpm.variables.networks import text_encoders
from adjointdpm.variables.token_embedding import neutral_word

FILE = "template.json"
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
_STEPS = 4  # sampler steps at most: a rough picture tells whether a word acts
_FINE_STEPS = 10  # with which it tells whether a word leaves the subjects
_EXAMPLES = 4
_WORDS = 4  # existing words in each sentence
_MANY_EXAMPLES = 8  # where words are compared and not sentences: some fit some prompts only
_STARTS = 48  # existing words to find where the token starts, in a sentence where words act most,
_FEW_STARTS = 8  # and in others
_MOST = 1 / 2  # of the largest change, above which words act most
_CHECKED = 6  # of them, the best first, so many are compared in finer pictures,
_FEW_CHECKED = 2  # and in others
_TRIED = 3  # of the sentences in which words act, so many are tried by learning in them
_LITTLE = 1 / 3  # change, see `Sentence`, below which tokens were seen to learn nothing
_NOTHING = 0.1  # and below which there is no point in trying


@dataclass(frozen=True)
class Sentence:
    """What was seen of one sentence.

    Args:
        template: the sentence.
        change: mean absolute difference between pictures with different words in the token's
            place, as a share of that between pictures of different prompts.
        objectives: mean objective of the pictures with each word, metric and content together; of
            those words alone, if there are such, that leave the subjects in the pictures.
        losing: the same of the other words, if there are both.
        loses: whether every word loses subjects.
        refused: why the sentence cannot be used.
        learned: the objective after a few steps in it, see `SentenceTrial`; None: not tried.

    """

    template: str
    change: float = 0.0
    objectives: Mapping[str, float] = field(default_factory=dict)
    refused: str = ""
    learned: float | None = None
    loses: bool = False
    losing: Mapping[str, float] = field(default_factory=dict)

    @property
    def acts(self) -> bool:
        """Whether a word in the token's place changes the picture enough to learn from it."""
        return self.change >= _LITTLE

    @property
    def spread(self) -> float:
        """Standard deviation of the objective over the words."""
        return statistics.pstdev(self.objectives.values()) if self.objectives else 0.0

    @property
    def promise(self) -> float:
        """The objective that can be hoped for: the best word's, less what words differ by."""
        return min(self.objectives.values()) - self.spread

    @property
    def best_word(self) -> str:
        """The word with the lowest objective."""
        return min(self.objectives, key=lambda word: self.objectives[word])


@dataclass(frozen=True)
class Choice:
    """The sentence that is used, and all that were tried.

    Args:
        template: the one that is used.
        initial: the word that the token starts at.
        own: whether the user named it.
        sentences: what was seen of each, the best first.
        lost: the share of validation pictures with that word that do not show their subject;
            None: nobody can tell.
        seconds, network_calls: what the probe took.

    """

    template: str
    initial: str
    own: bool
    sentences: Sequence[Sentence]
    lost: float | None = None
    seconds: float = 0.0
    network_calls: int = 0

    @property
    def acts(self) -> bool:
        """Whether a word in the token's place changes the picture enough to learn from it."""
        return self.used.acts

    @property
    def used(self) -> Sentence:
        """What was seen of the sentence that is used."""
        return next(s for s in self.sentences if s.template == self.template)

    def as_facts(self) -> dict[str, Any]:
        """Plain values, as `template.json` and `result.json` hold them."""
        rows = [asdict(s) | {"spread": s.spread} for s in self.sentences]
        return asdict(self) | {"sentences": rows}


@dataclass(frozen=True)
class TemplateProbe:
    """Draws rough pictures with existing words in the token's place.

    Args:
        render: how the run draws; the probe takes fewer steps.
        metric: what the run minimises.
        preservation: weight of the content, as in the run.
        token: the new token.
        initial: the word that it starts at; None lets the probe choose one.
        training: examples to draw.
        others: further examples that the run will draw; the token must fit into their prompts.
        trial: learns for a moment in the most promising sentences; None leaves it at their promise.
        lost: the share of pictures that do not show their prompt's subject; None: nobody can tell.
        validation: examples of which finer pictures are drawn with a word, before a token
            starts there.
        limit: the share of them that may be lost.

    """

    render: Renderer
    metric: Metric
    preservation: float
    token: str
    initial: str | None
    training: Sequence[Example]
    others: Sequence[Example] = ()
    trial: Callable[[str, str], float | None] | None = None
    lost: Callable[[Tensor, Sequence[str]], float] | None = None
    validation: Sequence[Example] = ()
    limit: float = 0.0

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
        started = time.perf_counter()
        with stats(memory=False) as cost:
            check_metric(self.render, self.metric, self.training)
            choice = self._choose(own)
        seconds = time.perf_counter() - started
        return replace(choice, seconds=seconds, network_calls=cost.network_calls)

    def _choose(self, own: str | None) -> Choice:
        if own is not None:
            self._check(own)  # before anything is drawn
        plain = self._draw([example.prompt for example in self._drawn], len(self._drawn))
        few = plain[:_EXAMPLES]
        tried = [] if own is None else [self._try(own, few)]
        if not tried or not tried[0].acts:
            others = [template for template in TEMPLATES if template != own]
            tried += [self._try(template, few) for template in others]
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
            ranked, starts = self._by_trial(ranked, plain)
        else:
            starts = {own: self._start(tried[0], plain, thorough=True)}
        used = own or ranked[0].template
        refused = [sentence for sentence in tried if sentence.refused]
        start = starts[used]
        return Choice(used, start.word, own is not None, ranked + refused, start.lost)

    def _by_trial(
        self, ranked: list[Sentence], plain: Tensor
    ) -> tuple[list[Sentence], dict[str, Start]]:
        """The same, those in front that act in the order of how far a token gets in them.

        Where the subjects are lost at its start, or it gets nowhere without losing them, a
        sentence comes after the others.

        Returns:
            The sentences, and where the token starts in those that were looked at.

        """
        front = self._front([sentence for sentence in ranked if sentence.acts]) or ranked[:1]
        most = max(sentence.change for sentence in front)
        starts = {
            s.template: self._start(s, plain, thorough=s.change >= _MOST * most) for s in front
        }
        if self.trial is None or len(front) < 2:
            return ranked, starts
        rest = [sentence for sentence in ranked if sentence not in front]
        with torch.enable_grad():
            tried = [
                replace(s, learned=self.trial(s.template, starts[s.template].word)) for s in front
            ]

        def order(sentence: Sentence) -> tuple[bool, bool, float]:
            lost = starts[sentence.template].lost or 0.0
            return lost > self.limit, sentence.learned is None, sentence.learned or 0.0

        return sorted(tried, key=order) + rest, starts

    @staticmethod
    def _front(ranked: list[Sentence]) -> list[Sentence]:
        """The most promising, and the one in which words change most: vectors reach further."""
        most = sorted(ranked, key=lambda sentence: -sentence.change)[:1]
        first = [sentence for sentence in ranked if sentence not in most][: _TRIED - 1]
        return [sentence for sentence in ranked if sentence in [*first, *most]]

    def _start(self, sentence: Sentence, plain: Tensor, *, thorough: bool) -> Start:
        """The word that the token starts at: the best that leaves subjects in finer pictures.

        Args:
            sentence: what was seen of it.
            plain: rough pictures without a word.
            thorough: whether to look through many words: where words act, they differ.

        """
        if self.initial is not None:
            words = [self.initial]
        elif thorough:
            words = self._by_objective(sentence, plain, self._words(_STARTS))
        else:
            words = self._by_objective(sentence, plain[:_EXAMPLES], self._words(_FEW_STARTS))
        if not self.validation:
            return Start(words[0])
        examples = list(self.validation)
        known, untouched = [example.prompt for example in examples], self._untouched

        def look(word: str) -> tuple[float | None, float]:
            written = [sentence.template.format(prompt=p, token=word) for p in known]
            pairs = zip(examples, written, strict=True)
            images = self._fine.look([e._replace(prompt=p) for e, p in pairs])
            lost = None if self.lost is None else self.lost(images, known)
            return lost, self._objective(images, untouched, known)

        return checked_start(words[: _CHECKED if thorough else _FEW_CHECKED], look, self.limit)

    def _by_objective(self, sentence: Sentence, plain: Tensor, words: Sequence[str]) -> list[str]:
        """Words in the order of their rough pictures' objective.

        Rough pictures show a subject less well than others: in turn there comes a word that keeps
        the subjects in them, and one of all.
        """
        seen = self._seen(sentence.template, words, plain)
        keeping = {} if seen.loses else seen.objectives
        every = {**seen.losing, **seen.objectives}
        orders = [sorted(found, key=found.__getitem__) for found in (keeping, every)]
        pairs = zip_longest(*orders)
        return list(dict.fromkeys(word for pair in pairs for word in pair if word is not None))

    def _try(self, template: str, plain: Tensor) -> Sentence:
        try:
            self._check(template)
        except PromptError as error:  # another sentence may leave the token in
            return Sentence(template, refused=str(error))
        return self._seen(template, self._words(_WORDS), plain)

    def _words(self, count: int) -> list[str]:
        """The initial word, if there is one, and so many others that are not in the prompts."""
        first = [] if self.initial is None else [self.initial]
        known = [example.prompt for example in self._drawn]
        pipe = self.render.model.pipe
        found = common_words(pipe, count, [*first, *known])
        if not first and not found:
            tokenizer = getattr(pipe, text_encoders(pipe)[0].tokenizer)
            found = [neutral_word(tokenizer, [example.prompt for example in self.training])]
        return list(dict.fromkeys(first + found))

    def _seen(self, template: str, words: Sequence[str], plain: Tensor) -> Sentence:
        """Draw a sentence with each of these words."""
        known = [example.prompt for example in self._drawn[: len(plain)]]
        prompts = [template.format(prompt=p, token=word) for word in words for p in known]
        pictures = self._draw(prompts, len(known)).unflatten(0, (len(words), len(known)))
        objectives = {
            word: self._objective(images, plain, known)
            for word, images in zip(words, pictures, strict=True)
        }
        fine = self._keeping(objectives, pictures, plain)
        if len(words) == 1:  # a tokenizer that knows no other: no word is another picture too
            pictures = torch.stack([pictures[0], plain])
        change = _apart(pictures) / max(_apart(plain), 1e-6)
        others = {w: v for w, v in objectives.items() if fine and w not in fine}
        return Sentence(template, change, fine or objectives, loses=not fine, losing=others)

    def _keeping(
        self, objectives: Mapping[str, float], pictures: Tensor, plain: Tensor
    ) -> dict[str, float]:
        """Of the words, one for each row of pictures, those that lose no subject."""
        if self.lost is None:
            return dict(objectives)
        known = [example.prompt for example in self._drawn[: len(plain)]]
        most = self.lost(plain, known)
        words = zip(objectives.items(), pictures, strict=True)
        return {word: value for (word, value), seen in words if self.lost(seen, known) <= most}

    def _check(self, template: str) -> None:
        """Raise PromptError if the token would not be read in an example's prompt."""
        pipe = self.render.model.pipe
        word = self.initial or self._words(1)[0]
        token = TokenEmbedding(pipe, self.token, word, template=template)
        with token:
            token.check([*self.training, *self.others])

    @cached_property
    def _fine(self) -> Renderer:
        """Draws the finer pictures."""
        return replace(self.render, steps=min(self.render.steps, _FINE_STEPS))

    @cached_property
    def _untouched(self) -> Tensor:
        """Finer pictures of the validation examples, without a word."""
        return self._fine.look(self.validation)

    @property
    def _drawn(self) -> list[Example]:
        """Training examples of different prompts, or of one prompt with different seeds."""
        first: dict[str, Example] = {}
        for example in self.training:
            first.setdefault(example.prompt, example)
        several = list(first.values())[:_MANY_EXAMPLES]
        more = range(1, 1 + _EXAMPLES - len(several))
        return several + [several[0]._replace(seed=several[0].seed + i) for i in more]

    def _draw(self, prompts: Sequence[str], count: int) -> Tensor:
        """Rough pictures of prompts, which stand for those of the first examples in turn."""
        rough = replace(self.render, steps=min(self.render.steps, _STEPS))
        drawn = self._drawn[:count]
        examples = [drawn[i % len(drawn)]._replace(prompt=p) for i, p in enumerate(prompts)]
        return torch.cat([images.float().cpu() for _, images in rough.draw(examples)])

    def _objective(self, images: Tensor, plain: Tensor, prompts: Sequence[str]) -> float:
        """What the run minimises, with the metric told of the prompts without the word."""
        scores = self.render.score(self.metric, images, prompts).mean().item()
        if not self.preservation:
            return scores
        spread = self.render.score(self.metric, plain, prompts).std(correction=0).item()
        weight = self.preservation * scaled(spread)
        return scores + weight * structure_distance(images, plain).mean().item()


def chosen_template(probe: Callable[[], Choice], folder: RunFolder, resume: bool) -> Choice:
    """The sentence of a run: a resumed one's own, else what the probe finds in the main process.

    Raises:
        PromptError: see `TemplateProbe.choose`.
        CheckpointError: the file of a resumed run cannot be read.
        OutputError: the choice cannot be written.

    """
    path = folder.path / FILE

    def choose() -> Choice:
        if resume and path.exists():
            return _read(path.read_text(encoding="utf-8"), str(path))
        choice = probe()
        folder.begin()
        write_text(path, json.dumps(choice.as_facts(), indent=2) + "\n")
        return choice

    return Processes().from_main(choose)


def _apart(pictures: Tensor) -> float:
    """Mean absolute difference between pictures, or stacks of them."""
    pairs = [(a - b).abs().mean().item() for a, b in combinations(pictures, 2)]
    return sum(pairs) / max(1, len(pairs))


def _read(text: str, where: str) -> Choice:
    try:
        facts = json.loads(text)
        for row in facts["sentences"]:
            row.pop("spread")
        return Choice(**facts | {"sentences": [Sentence(**row) for row in facts["sentences"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{where} does not say which sentence the run uses ({error}); start anew with --force"
        ) from error
