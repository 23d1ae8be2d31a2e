"""What the loop minimises, and its gradient: metric, preservation and regularisers, over examples that the processes share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInputError, MetricError
from adjointdpm.metrics import Metric, check_scores, structure_distance
from adjointdpm.processes import Processes
from adjointdpm.rendering import Renderer
from adjointdpm.settings import Settings
from adjointdpm.variables import Example, Variable


@dataclass(frozen=True)
class Objective:
    """mean(metric) + preservation · mean(structure distance to the plain picture) + Σ weight · regulariser.

    Every method is called by all processes with all examples; each draws its share.

    Args:
        render: draws the examples.
        variable: what is learned.
        metric: `[B]` scores of pictures, lower is better.
        settings: the weights, and how many examples go in one graph.
        processes: whom the examples are shared with.
        plain: the untouched model's picture `[3, H, W]` of every example; see `draw_plain`.

    """

    render: Renderer
    variable: Variable
    metric: Metric
    settings: Settings
    processes: Processes
    plain: dict[Example, Tensor]

    def backward(self, examples: Sequence[Example]) -> dict[str, float]:
        """Add the gradient to the learned tensors' `grad`, and return the values as `look` does.

        Raises:
            MetricError: the metric failed in any process, or no gradient reached the variable.

        """
        rows: list[tuple[float, ...]] = []
        mine, batch = self.processes.share(examples), self.settings.batch
        with self.processes.together():
            for start in range(0, len(mine), batch):
                part = mine[start : start + batch]
                images = self.render(part, self.variable)
                parts = self._parts(images, part)
                if images.requires_grad and not parts[0].requires_grad:
                    raise MetricError(f"metric {self.metric.name} blocks gradients; nothing could be learned from it")
                _backward(sum((w * p.sum() for w, p in zip(self._weights, parts, strict=True)), torch.zeros(())) / len(examples))
                rows += zip(*(values.tolist() for values in parts), strict=True)
            if self.processes.is_main:  # once: the gradients of all processes are added up
                values = self._regularisers()
                _backward(sum((weight * values[name] for name, weight in self.settings.regularisers.items()), torch.zeros(())))
        tensors = list(self.variable.tensors().values())
        if self.processes.count > 1:
            reached = torch.tensor([float(tensor.grad is not None) for tensor in tensors])
            gradients = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in tensors]
            self.processes.sum_([reached, *gradients])
            for tensor, gradient, share in zip(tensors, gradients, reached.tolist(), strict=True):
                tensor.grad = gradient if share else None  # as one process would have it: Adam leaves a tensor without a gradient alone
        if all(tensor.grad is None for tensor in tensors):
            names = ", ".join(self.variable.tensors())
            raise MetricError(f"no gradient of {self.metric.name} reached {names}; the metric or the model detaches it")
        return self._values(rows)

    @torch.no_grad()
    def look(self, examples: Sequence[Example]) -> dict[str, float]:
        """The values without a gradient: means of "metric" and "drift" (with preservation), each regulariser asked for, "objective"."""
        rows: list[tuple[float, ...]] = []
        mine = self.processes.share(examples)
        with self.processes.together():
            if mine:
                parts = self._parts(self.render.look(mine, self.variable), mine)
                rows += zip(*(values.tolist() for values in parts), strict=True)
        return self._values(rows)

    @property
    def _weights(self) -> tuple[float, ...]:
        return (1.0, self.settings.preservation) if self.settings.preservation else (1.0,)

    def _parts(self, images: Tensor, examples: Sequence[Example]) -> list[Tensor]:
        """The terms that `_weights` weighs, `[B]` each."""
        scores = self.metric(images)
        check_scores(self.metric, scores, len(examples))
        if not self.settings.preservation:
            return [scores]
        return [scores, structure_distance(images, torch.stack([self.plain[e] for e in examples]).to(images))]

    def _regularisers(self) -> dict[str, Tensor]:
        return self.variable.regularisers() if self.settings.regularisers else {}

    def _regulariser_values(self) -> dict[str, float]:
        values = self._regularisers()
        return {name: values[name].item() for name in self.settings.regularisers}

    def _values(self, rows: list[tuple[float, ...]]) -> dict[str, float]:
        """Means over all processes' rows, the same bits in each of them: they decide which state is kept and when the run stops."""
        columns = zip(*self.processes.gather(rows), strict=True)
        means = [math.fsum(column) / len(column) for column in columns]
        values = dict(zip(("metric", "drift"), means, strict=False))
        extra = self.processes.from_main(self._regulariser_values)
        total = sum(weight * mean for weight, mean in zip(self._weights, means, strict=True))
        return values | extra | {"objective": total + sum(weight * extra[name] for name, weight in self.settings.regularisers.items())}


def check_regularisers(variable: Variable, settings: Settings) -> None:
    """Raise InvalidInputError if `settings` ask for a regulariser that the variable does not have."""
    for name in settings.regularisers:
        known = variable.regularisers()
        if name not in known:
            raise InvalidInputError(
                f"{name}={getattr(settings, name)} asks for a regulariser that {type(variable).__name__} does not have; "
                f"it has {', '.join(known) or 'none'}; set {name}=0"
            )


def draw_plain(render: Renderer, variable: Variable, examples: Sequence[Example], processes: Processes) -> dict[Example, Tensor]:
    """Pictures `[3, H, W]` on the CPU of the model without what is learned: each drawn by one process, returned in all of them."""
    unique = list(dict.fromkeys(examples))
    mine: Any = processes.share(unique)
    pictures = torch.empty(0)
    with processes.together(), variable.disabled():
        if mine:
            pictures = render.look(mine)
    return dict(zip(unique, processes.gather(pictures), strict=True))


def _backward(loss: Tensor) -> None:
    if loss.requires_grad:
        loss.backward()
