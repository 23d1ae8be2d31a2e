"""Pictures with existing words in a new token's place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import torch
from torch import Tensor

from adjointdpm.metrics import Metric, structure_distance
from adjointdpm.optimization.as_shown import as_shown
from adjointdpm.optimization.content_weight import scaled
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.tasks.common_words import common_words
from adjointdpm.tasks.judge_guard import ContentCheck
from adjointdpm.tasks.sentences import Sentence
from adjointdpm.variables import Example
from adjointdpm.variables.networks import text_encoders
from adjointdpm.variables.token_embedding import neutral_word

FEW = 4  # examples that tell whether a word acts
_MANY = 8  # where words are compared and not sentences: some fit some prompts only
ROUGH_STEPS = 4  # sampler steps at most: a rough picture tells whether a word acts


@dataclass(frozen=True)
class WordPictures:
    """Draws rough pictures with words in the token's place, and tells what they are worth.

    Args:
        render: how the run draws; rough pictures take fewer steps.
        metric: what the run minimises.
        preservation: weight of the content, as in the run.
        initial: the word that the token starts at, if the user named one.
        training: examples to draw.
        content: tells which pictures do not show their prompt's subject; None: it does not matter.
        others: prompts that the token will be used with too. A word that is some prompt's subject
            would say more than how that one looks.

    """

    render: Renderer
    metric: Metric
    preservation: float
    initial: str | None
    training: Sequence[Example]
    content: ContentCheck | None = None
    others: Sequence[str] = ()

    @cached_property
    def examples(self) -> list[Example]:
        """Training examples of different prompts, or of one prompt with different seeds."""
        return drawn_with_words(self.training)

    @cached_property
    def plain(self) -> Tensor:
        """Rough pictures of the examples, without a word."""
        return self._draw([example.prompt for example in self.examples], len(self.examples))

    def words(self, count: int) -> list[str]:
        """The initial word, if there is one, and so many others that are not in the prompts."""
        first = [] if self.initial is None else [self.initial]
        known = [*(example.prompt for example in self.training), *self.others]
        pipe = self.render.model.pipe
        found = common_words(pipe, count, [*first, *known])
        if not first and not found:
            tokenizer = getattr(pipe, text_encoders(pipe)[0].tokenizer)
            found = [neutral_word(tokenizer, known)]
        return list(dict.fromkeys(first + found))

    def seen(self, template: str, words: Sequence[str], plain: Tensor) -> Sentence:
        """Draw a sentence with each of these words.

        Args:
            template: the sentence.
            words: some.
            plain: the first few of the pictures without a word: so many examples are drawn.

        """
        known = [example.prompt for example in self.examples[: len(plain)]]
        prompts = [template.format(prompt=p, token=word) for word in words for p in known]
        pictures = self._draw(prompts, len(known)).unflatten(0, (len(words), len(known)))
        objectives = {
            word: self.objective(images, plain, known)
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
        if (content := self.content) is None:
            return dict(objectives)
        known = [example.prompt for example in self.examples[: len(plain)]]
        words = zip(objectives.items(), pictures, strict=True)
        return {word: value for (word, value), x in words if content.keeps(x, plain, known)}

    def _draw(self, prompts: Sequence[str], count: int) -> Tensor:
        """Rough pictures of prompts, which stand for those of the first examples in turn."""
        rough = replace(self.render, steps=min(self.render.steps, ROUGH_STEPS))
        drawn = self.examples[:count]
        examples = [drawn[i % len(drawn)]._replace(prompt=p) for i, p in enumerate(prompts)]
        return torch.cat([images.float().cpu() for _, images in rough.draw(examples)])

    def objective(self, images: Tensor, plain: Tensor, prompts: Sequence[str]) -> float:
        """What the run minimises, with the metric told of the prompts without the word."""
        scores = self.render.score(self.metric, as_shown(images), prompts).mean().item()
        if not self.preservation:
            return scores
        spread = self.render.score(self.metric, as_shown(plain), prompts)
        weight = self.preservation * scaled(spread.std(correction=0).item())
        return scores + weight * structure_distance(images, plain).mean().item()


def drawn_with_words(training: Sequence[Example]) -> list[Example]:
    """What is drawn to compare words: different prompts, or one prompt with different seeds."""
    first: dict[str, Example] = {}
    for example in training:
        first.setdefault(example.prompt, example)
    several = list(first.values())[:_MANY]
    more = range(1, 1 + FEW - len(several))
    return several + [several[0]._replace(seed=several[0].seed + i) for i in more]


def _apart(pictures: Tensor) -> float:
    """Mean absolute difference between pictures, or stacks of them."""
    pairs = [(a - b).abs().mean().item() for a, b in combinations(pictures, 2)]
    return sum(pairs) / max(1, len(pairs))
