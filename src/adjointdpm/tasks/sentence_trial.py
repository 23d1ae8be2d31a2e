"""A few steps in a sentence: how far a token gets there, before the run settles on it.

Existing words tell in which sentences a token acts. They do not tell in which it learns: a new
vector may go where no word is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adjointdpm.metrics import Metric, score, structure_distance
from adjointdpm.optimization.as_shown import as_shown
from adjointdpm.optimization.content_weight import scaled
from adjointdpm.optimization.normalized_descent import NormalizedDescent
from adjointdpm.optimization.renderer import LOOK, Renderer
from adjointdpm.tasks.judge_guard import ContentCheck
from adjointdpm.variables import Example, TokenEmbedding

_ITERATIONS = 6
_STEPS = 10  # sampler steps at most
_EXAMPLES = 4


@dataclass(frozen=True)
class SentenceTrial:
    """Learns a token for a moment, from one batch, with fewer sampler steps than the run.

    Args:
        render: how the run draws.
        metric: what the run minimises.
        preservation: weight of the content.
        token, vectors, max_norm, lr: of the run.
        training: examples to learn from.
        looked_at: others, which tell how far it got.
        content: tells which pictures do not show their prompt's subject; None: it does not matter.

    """

    render: Renderer
    metric: Metric
    preservation: float
    token: str
    vectors: int
    max_norm: float
    lr: float
    training: Sequence[Example]
    looked_at: Sequence[Example]
    content: ContentCheck | None = None

    def __call__(self, template: str, initial: str) -> float | None:
        """The objective to be expected on examples that it did not learn from.

        It is that of the start, unless it got better without losing more subjects. Half of what was
        gained is then expected once more: the run is longer, and where a token gains fast it has
        further to go. None if subjects are lost there at the start already.

        Args:
            template: the sentence.
            initial: the word that the token starts at.

        """
        token = TokenEmbedding(
            self.render.model.pipe,
            self.token,
            initial,
            template=template,
            vectors=self.vectors,
            max_norm=self.max_norm,
        )
        steps = min(self.render.steps, _STEPS)
        last = max(2, math.ceil(steps / 4))
        rough = replace(self.render, steps=steps, gradient=f"truncated:last={last}")
        learned = list(self.training)[:_EXAMPLES]
        seen = list(self.looked_at)[:_EXAMPLES]
        with torch.no_grad():
            plain = torch.cat([images for _, images in rough.draw([*learned, *seen])])
            prompts = [example.prompt for example in [*learned, *seen]]
            spread = score(self.metric, as_shown(plain), prompts, LOOK).std(correction=0).item()
        there = replace(self, preservation=self.preservation * scaled(spread))
        with token:
            before, lost_before, keeps = there._look(rough, token, seen, plain[len(learned) :])
            there._learn(rough, token, learned, plain[: len(learned)])
            after, lost_after, _ = there._look(rough, token, seen, plain[len(learned) :])
        if not keeps:
            return None
        if lost_after > lost_before:
            return before
        return min(before, after + (after - before) / 2)

    def _learn(
        self, render: Renderer, token: TokenEmbedding, examples: list[Example], plain: Tensor
    ) -> None:
        tensors = list(token.tensors().values())
        descent = NormalizedDescent(tensors, self.lr, list(token.units().values()))
        for iteration in range(_ITERATIONS):
            objective = self._objective(render(examples, token), examples, plain)
            gradients = torch.autograd.grad(objective, tensors, allow_unused=True)
            for tensor, gradient in zip(tensors, gradients, strict=True):
                tensor.grad = gradient
            descent.param_groups[0]["lr"] = self.lr * (1 - iteration / _ITERATIONS)
            descent.step()
            token.project()

    @torch.no_grad()
    def _look(
        self, render: Renderer, token: TokenEmbedding, examples: list[Example], plain: Tensor
    ) -> tuple[float, int, bool]:
        """The objective, how many subjects are lost, and whether that is few enough."""
        images, prompts = render(examples, token), [example.prompt for example in examples]
        value, content = self._objective(images, examples, plain).item(), self.content
        if content is None:
            return value, 0, True
        lost = content.lost(images, plain, prompts)
        return value, lost, lost <= content.spare(len(prompts))

    def _objective(self, images: Tensor, examples: list[Example], plain: Tensor) -> Tensor:
        prompts = [example.prompt for example in examples]
        scores = score(self.metric, as_shown(images), prompts, LOOK)
        if not self.preservation:
            return scores.mean()
        return scores.mean() + self.preservation * structure_distance(images, plain).mean()
