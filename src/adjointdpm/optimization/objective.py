"""What the loop minimises, and its gradient: metric, preservation and regularisers, over examples
that the processes share.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import AdjointDPMWarning, InvalidInputError, InvalidTypeError, MetricError
from adjointdpm.metrics import Metric, check_samples, check_scores, structure_distance
from adjointdpm.optimization.float16_scaling import GradientScale, largest_of, uses_float16
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.optimization.settings import Settings
from adjointdpm.support.distributed import Processes
from adjointdpm.variables import Example, Variable


@dataclass(frozen=True)
class Objective:
    """mean(metric) + preservation · mean(structure distance to the plain picture) + Σ weight ·
    regulariser.

    All pictures are unclamped, the plain ones too, so that an untouched drawing has distance 0, and
    what is learned from and what is validated are the same quantity.

    Every method is called by all processes with all examples; each draws its share.

    Args:
        render: draws the examples.
        variable: what is learned.
        metric: `[B]` scores of pictures, lower is better.
        settings: the weights, and how many examples go in one graph.
        processes: whom the examples are shared with.
        plain: the untouched model's picture `[3, H, W]` of every example; see `draw_plain`.
        scale: for gradients through float16.

    """

    render: Renderer
    variable: Variable
    metric: Metric
    settings: Settings
    processes: Processes
    plain: dict[Example, Tensor]
    scale: GradientScale

    def backward(self, examples: Sequence[Example]) -> dict[str, float]:
        """Add the gradient to the learned tensors' `grad`, and return the values as `look` does.

        Raises:
            MetricError: the metric failed in any process, or no gradient reached the variable.

        Warns:
            AdjointDPMWarning: the gradient of metric and preservation is 0.

        """
        rows: list[tuple[float, ...]] = []
        mine, batch, moves = self.processes.share(examples), self.settings.batch, False
        tensors = list(self.variable.tensors().values())
        with self.processes.together():
            for start in range(0, len(mine), batch):
                values, gradients = self._gradients(
                    mine[start : start + batch], len(examples), tensors
                )
                rows += values
                moves = moves or largest_of(gradients) != 0
                _add(tensors, gradients)
            if self.processes.is_main:  # once: the gradients of all processes are added up
                values = self._regularisers()
                penalty = sum(
                    (weight * values[name] for name, weight in self.settings.regularisers.items()),
                    torch.zeros(()),
                )
                if penalty.requires_grad:
                    penalty.backward()
        if self.processes.count > 1:
            reached = torch.tensor([float(tensor.grad is not None) for tensor in tensors])
            gradients = [
                torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
                for tensor in tensors
            ]
            self.processes.sum_([reached, *gradients])
            for tensor, gradient, share in zip(tensors, gradients, reached.tolist(), strict=True):
                tensor.grad = (
                    gradient if share else None
                )  # as one process would have it: Adam leaves a tensor without a gradient alone
        if all(tensor.grad is None for tensor in tensors):
            names = ", ".join(self.variable.tensors())
            raise MetricError(
                f"no gradient of {self.metric.name} reached {names}; the metric or the model "
                f"detaches it"
            )
        self._agree(moves)
        return self._values(rows)

    @torch.no_grad()
    def look(self, examples: Sequence[Example]) -> dict[str, float]:
        """The values without a gradient: means of "metric" and "drift" (with preservation), each
        regulariser asked for, "objective".
        """
        rows: list[tuple[float, ...]] = []
        mine = self.processes.share(examples)
        with self.processes.together():
            for part, images in self.render.draw(mine, self.variable):
                rows += zip(*(values.tolist() for values in self._parts(images, part)), strict=True)
        return self._values(rows)

    def _gradients(
        self, examples: Sequence[Example], count: int, tensors: Sequence[Tensor]
    ) -> tuple[list[tuple[float, ...]], list[Tensor | None]]:
        """The values of examples, and the gradient of what they contribute to the mean over
        `count`.
        """
        parts: list[Tensor] = []

        def draw() -> tuple[Tensor, Tensor]:
            images = self.render(examples, self.variable)
            parts[:] = self._parts(images, examples)
            if images.requires_grad and not parts[0].requires_grad:
                raise MetricError(
                    f"metric {self.metric.name} blocks gradients; nothing could be learned from it"
                )
            return images, sum(
                (w * p.sum() for w, p in zip(self._weights, parts, strict=True)), torch.zeros(())
            ) / count

        gradients = self.scale.gradients(draw, tensors, uses_float16(self.render.model))
        return list(zip(*(values.tolist() for values in parts), strict=True)), gradients

    def _agree(self, moves: bool) -> None:
        """Give all processes one scale, and warn if no example of any of them moves the variable."""
        seen = self.processes.gather([(self.scale.largest, self.scale.steady, moves)])
        self.scale.largest, self.scale.steady = min(
            (largest, steady) for largest, steady, _ in seen
        )
        self.scale.step_done()
        if self.processes.is_main and not any(moved for *_, moved in seen):
            warnings.warn(
                f"the gradient of {self.metric.name} with respect to "
                f"{', '.join(self.variable.tensors())} is exactly 0 for all examples of a step, "
                "which teach nothing: metric or pictures are flat there (a threshold that all "
                "have passed? a learning rate that drove them to black or white?), or what is "
                f"learned has no effect on these pictures",
                AdjointDPMWarning,
                stacklevel=2,
            )

    @property
    def _weights(self) -> tuple[float, ...]:
        return (1.0, self.settings.preservation) if self.settings.preservation else (1.0,)

    def _parts(self, images: Tensor, examples: Sequence[Example]) -> list[Tensor]:
        """The terms that `_weights` weighs, `[B]` each."""
        check_samples(self.metric, images)
        scores = self.metric(images, prompts=[example.prompt for example in examples])
        check_scores(self.metric, scores, len(examples))
        if not self.settings.preservation:
            return [scores]
        return [
            scores,
            structure_distance(images, torch.stack([self.plain[e] for e in examples]).to(images)),
        ]

    def _regularisers(self) -> dict[str, Tensor]:
        return self.variable.regularisers() if self.settings.regularisers else {}

    def _regulariser_values(self) -> dict[str, float]:
        values = self._regularisers()
        return {name: values[name].item() for name in self.settings.regularisers}

    def _values(self, rows: list[tuple[float, ...]]) -> dict[str, float]:
        """Means over all processes' rows, the same bits in each of them: they decide which state is
        kept and when the run stops.
        """
        columns = zip(*self.processes.gather(rows), strict=True)
        means = [math.fsum(column) / len(column) for column in columns]
        values = dict(zip(("metric", "drift"), means, strict=False))
        extra = self.processes.from_main(self._regulariser_values)
        total = sum(weight * mean for weight, mean in zip(self._weights, means, strict=True))
        return (
            values
            | extra
            | {
                "objective": total
                + sum(weight * extra[name] for name, weight in self.settings.regularisers.items())
            }
        )


def check_tensors(variable: Variable) -> None:
    """Raise InvalidTypeError if something would be learned in float16: the numbers that Adam
    divides by are 0 there, and its steps NaN.
    """
    for name, tensor in variable.tensors().items():
        if tensor.dtype == torch.float16:
            raise InvalidTypeError(
                f"{name} of {type(variable).__name__} is in float16, in which Adam's steps are "
                "NaN; keep what is learned in float32 and cast it where it is used, or load the "
                f"pipeline in bfloat16 or float32"
            )


def check_regularisers(variable: Variable, settings: Settings) -> None:
    """Raise InvalidInputError if `settings` ask for a regulariser that the variable does not have."""
    for name in settings.regularisers:
        known = variable.regularisers()
        if name not in known:
            raise InvalidInputError(
                f"{name}={getattr(settings, name)} asks for a regulariser that "
                f"{type(variable).__name__} does not have; it has {', '.join(known) or 'none'}; "
                f"set {name}=0"
            )


def draw_plain(
    render: Renderer, variable: Variable, examples: Sequence[Example], processes: Processes
) -> dict[Example, Tensor]:
    """Unclamped pictures `[3, H, W]` on the CPU of the model without what is learned: each drawn by
    one process, returned in all.
    """
    unique = list(dict.fromkeys(examples))
    mine: Any = processes.share(unique)
    pictures = torch.empty(0)
    with processes.together(), variable.disabled():
        if mine:
            pictures = torch.cat([images.cpu() for _, images in render.draw(mine)])
    return dict(zip(unique, processes.gather(pictures), strict=True))


def _add(tensors: Sequence[Tensor], gradients: list[Tensor | None]) -> None:
    """Add to the tensors' `grad`, which share no memory with anything; `gradients` is used up, so
    that few are there twice at a time.
    """
    for tensor in reversed(tensors):
        gradient = gradients.pop()
        if gradient is not None:
            tensor.grad = gradient.clone() if tensor.grad is None else tensor.grad + gradient
