"""What the loop minimises, and its gradient."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from adjointdpm.errors import AdjointDPMWarning, InvalidInputError, MetricError
from adjointdpm.metrics import Metric, score, structure_distance
from adjointdpm.optimization.as_shown import as_shown
from adjointdpm.optimization.content_weight import scaled
from adjointdpm.optimization.float16_scaling import GradientScale, largest_of, uses_float16
from adjointdpm.optimization.guard import Guard
from adjointdpm.optimization.prediction_drift import NetworkCall, PredictionDrift
from adjointdpm.optimization.renderer import LOOK, Drawn, Renderer
from adjointdpm.optimization.settings import Settings
from adjointdpm.support.distributed import Processes
from adjointdpm.variables import Example, Variable

Values = dict[str, float]  # what records hold; "objective" is the number that is minimised
Row = dict[str, float]  # one example's terms


class Objective(Protocol):
    """What the loop minimises; another algorithm is another objective.

    Under several processes each of them calls every method, with all examples. It draws its share
    of them, and returns what all found together.
    """

    render: Renderer  #: Draws the pictures. The loop freezes its model's weights.
    #: Of its scores over untouched pictures, known after `settle`: less is no gain. 0: not known.
    spread: float = 0.0

    @property
    def name(self) -> str:
        """How messages call it."""
        ...

    def prepare(self, variable: Variable, examples: Sequence[Example], settings: Settings) -> None:
        """Get ready; called once in each session, before anything is drawn or learned.

        Args:
            variable: what is learned.
            examples: all that the run will use.
            settings: of the loop.

        """
        ...

    def settle(self) -> None:
        """Find out what only steps need; called once in each session, after the first look."""

    def backward(self, examples: Sequence[Example]) -> Values:
        """Add the gradient to the `grad` of the variable's tensors, and return the values."""
        ...

    def look(self, examples: Sequence[Example]) -> Values:
        """The values without a gradient."""
        ...

    def total(self, values: Values) -> float:
        """The objective of a state with these values, with the weights of now."""
        return values["objective"]

    def content_cost(self, values: Values) -> float:
        """What keeping the content adds to it."""
        return 0.0

    def lower_content(self, factor: float) -> None:
        """Multiply the weights of the content by a factor."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the objective itself; JSON must be able to hold it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; called before `prepare`."""


@dataclass
class MetricObjective(Objective):
    """mean(metric) + content · (preservation · mean(held) + kl · drift) + Σ others.

    The others are the regularisers, each with its weight. The drift is that of `PredictionDrift`.
    What is held is the structure distance, unless `misfit` takes its place.
    The metric sees pictures as they are shown, see `as_shown`. The structure distance is that to
    the plain picture: what the model draws without the variable. There both are unclamped.

    Args:
        render: draws the examples, and fixes the gradient method.
        metric: lower is better; probe it beforehand (`metrics.probe`).
        enough: where the metric is good enough: below, it is not made smaller any more, and
            relu(metric − enough) takes its place in the objective.
        guard: is measured whenever the loop looks, and no part of the objective.
        measure_spread: measures `Objective.spread`. Without it, the weights that keep the content
            count as they are given, and are never lowered.
        misfit: what preservation weighs in place of the structure distance: a metric that is 0
            where the content is surely kept. So it costs nothing until it is nearly lost, and its
            weight never falls.
        scale: for gradients through float16.
        processes: with whom the examples are shared.

    Attributes:
        content: the factor of the weights that keep the content; see `content_weight`.
        plain: the plain picture `[3, H, W]` of every example, if the structure distance is part.

    """

    render: Renderer
    metric: Metric
    enough: float | None = None
    guard: Guard | None = None
    measure_spread: Callable[[], float] | None = None
    misfit: Metric | None = None
    scale: GradientScale = field(default_factory=GradientScale)
    processes: Processes = field(default_factory=Processes)
    steps: int = field(default=0, init=False)  # backward passes, which choose what is compared
    variable: Variable = field(init=False)
    settings: Settings = field(init=False)
    plain: dict[Example, Tensor] = field(init=False)
    drift: PredictionDrift | None = field(default=None, init=False)
    spread: float = field(default=0.0, init=False)
    content: float | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """The metric's."""
        return self.metric.name

    def prepare(self, variable: Variable, examples: Sequence[Example], settings: Settings) -> None:
        """Draw the plain pictures, if they will be needed.

        Raises:
            InvalidInputError: a regulariser is asked for that the variable does not have, or the
                drift of a variable that changes no network.

        """
        self.variable, self.settings, self.plain = variable, settings, {}
        _check_regularisers(variable, settings)
        if settings.kl:
            self.drift = self._watchable_drift(examples[0])
        if settings.preservation and self.misfit is None:
            self.plain = self._draw_plain(examples)

    def settle(self) -> None:
        """Measure the spread, which takes a while: the first pictures are seen before."""
        if self.measure_spread is not None:
            self.spread = self.measure_spread()
        if self.content is None:
            self.content = scaled(self.spread)

    def backward(self, examples: Sequence[Example]) -> Values:
        """Add the gradient to the learned tensors' `grad`, and return the values as `look` does.

        Raises:
            MetricError: the metric failed in any process, or no gradient reached the variable.

        Warns:
            AdjointDPMWarning: the gradient of metric and preservation is 0.

        """
        rows: list[Row] = []
        mine, batch, moves = self.processes.share(examples), self.settings.batch, False
        tensors = list(self.variable.tensors().values())
        with self.processes.together():
            for start in range(0, len(mine), batch):
                part = mine[start : start + batch]
                found, gradients = self._gradients(part, len(examples), tensors)
                rows += found
                moves = moves or largest_of(gradients) != 0
                _add(tensors, gradients)
            if self.processes.is_main:  # once: the gradients of all processes are added up
                self._add_regularisers()
        if self.processes.count > 1:
            self._add_up(tensors)
        if all(tensor.grad is None for tensor in tensors):
            names = ", ".join(self.variable.tensors())
            raise MetricError(
                f"no gradient of {self.name} reached {names}; the metric or the model detaches it"
            )
        self._agree(moves or self.enough is not None)
        self.steps += 1
        return self._values(rows)

    @torch.no_grad()
    def look(self, examples: Sequence[Example]) -> Values:
        """Means over the examples, and the "objective".

        They are "metric", "drift" or "misfit" (with preservation), "kl", each regulariser, "guard"
        and its standard error "guard_error", as far as there are such.
        """
        rows: list[Row] = []
        mine = self.processes.share(examples)
        with self.processes.together():
            for part, images, calls in self._drawn(mine):
                parts = self._parts(images, part)
                if self.guard is not None:
                    parts["guard"] = self._guarded(images, part)
                rows += _rows(parts, {"kl": self.drift.value(calls)} if self.drift else {})
        return self._values(rows)

    def state_dict(self) -> dict[str, Any]:
        """The scale, the number of backward passes, and the factor of the content's weights."""
        return asdict(self.scale) | {"steps": self.steps, "content": self.content}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a saved state."""
        own = ("steps", "content")
        self.steps, self.content = state.get("steps", 0), state.get("content")
        self.scale = GradientScale(**{k: v for k, v in state.items() if k not in own})

    def total(self, values: Values) -> float:
        """As `Objective.total`."""
        total = sum(weight * values[name] for name, weight in self._weights.items())
        weights = self.settings.regularisers.items()
        return total + sum(weight * values[name] for name, weight in weights)

    def content_cost(self, values: Values) -> float:
        """As `Objective.content_cost`."""
        weights = self._weights
        return sum(weights[name] * values[name] for name in ("drift", "kl") if name in weights)

    def lower_content(self, factor: float) -> None:
        """As `Objective.lower_content`."""
        self.content = self._content * factor

    def _gradients(
        self, examples: Sequence[Example], count: int, tensors: Sequence[Tensor]
    ) -> tuple[list[Row], list[Tensor | None]]:
        """The terms of examples, and the gradient of their share of the mean over `count`."""
        parts: dict[str, Tensor] = {}
        calls: list[NetworkCall] = []

        def draw() -> tuple[Tensor, Tensor]:
            with self._watching(f"step {self.steps}") as seen:
                images = self.render(examples, self.variable)
            calls[:] = seen
            first = examples[0]  # a resumed run, and another number of processes, draw the same
            draw = f"{self.settings.seed} {self.steps} {first.seed} {first.prompt}"
            parts.update(self._parts(images, examples, draw))
            if images.requires_grad and not parts["metric"].requires_grad:
                raise MetricError(
                    f"metric {self.name} blocks gradients; nothing could be learned from it"
                )
            terms = [w * parts[n].sum() for n, w in self._weights.items() if n in parts]
            return images, sum(terms, torch.zeros(())) / count

        float16 = uses_float16(self.render.model)
        gradients = self.scale.gradients(draw, tensors, float16)
        if self.drift is None:
            return _rows(parts, {}), gradients
        value, held = self.drift.gradients(calls, tensors, self.scale, float16)
        weight = self._weights["kl"] * len(examples) / count
        pairs = zip(gradients, held, strict=True)
        return _rows(parts, {"kl": value}), [_plus(a, b, weight) for a, b in pairs]

    def _watchable_drift(self, example: Example) -> PredictionDrift | None:
        """The drift, unless a short drawing makes no call of the network that could be seen.

        Warns:
            AdjointDPMWarning: it makes none.

        """
        drift = PredictionDrift(self.render.model.pipe, self.variable)
        short = replace(self.render, steps=min(2, self.render.steps))
        with drift.watching("") as calls:
            next(short.draw([example]))
        if calls and calls[0].outputs:
            return drift
        warnings.warn(
            f"{type(drift.network).__name__} is not called in a way that can be watched, so the "
            f"drift of its predictions is not part of the objective (kl={self.settings.kl:g} is "
            f"taken as 0); the structure distance alone holds the pictures, see preservation",
            AdjointDPMWarning,
            stacklevel=2,
        )
        return None

    @contextmanager
    def _watching(self, key: str) -> Iterator[list[NetworkCall]]:
        """Some of the network's calls, where their drift is asked for."""
        if self.drift is None:
            yield []
        else:
            with self.drift.watching(f"{self.settings.seed} {key}") as calls:
                yield calls

    def _drawn(
        self, examples: Sequence[Example]
    ) -> Iterator[tuple[Sequence[Example], Drawn, list[NetworkCall]]]:
        """What `Renderer.draw` yields, and some network calls of each; the same at every look."""
        drawn = self.render.draw(examples, self.variable)
        while True:
            with self._watching("look") as calls:
                found = next(drawn, None)
            if found is None:
                return
            yield *found, calls

    def _guarded(self, images: Tensor, examples: Sequence[Example]) -> Tensor:
        """The guard's scores of pictures as they are shown."""
        assert self.guard is not None
        prompts = [example.prompt for example in examples]
        return score(self.guard.metric, as_shown(images), prompts, LOOK)

    def _add_regularisers(self) -> None:
        """Add the regularisers' gradient to the learned tensors' `grad`."""
        values = self._regularisers()
        penalty = sum(
            (weight * values[name] for name, weight in self.settings.regularisers.items()),
            torch.zeros(()),
        )
        if penalty.requires_grad:
            penalty.backward()

    def _add_up(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the sum of their gradients."""
        reached = torch.tensor([float(tensor.grad is not None) for tensor in tensors])
        gradients = [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors]
        self.processes.sum_([reached, *gradients])
        for tensor, gradient, share in zip(tensors, gradients, reached.tolist(), strict=True):
            # As one process would have it: optimisers leave a tensor without a gradient alone.
            tensor.grad = gradient if share else None

    def _agree(self, moves: bool) -> None:
        """Give all processes one scale, and warn if no example of any of them moves the variable.

        Args:
            moves: whether an example of this process does.

        """
        seen = self.processes.gather([(self.scale.largest, self.scale.steady, moves)])
        self.scale.largest, self.scale.steady = min(
            (largest, steady) for largest, steady, _ in seen
        )
        self.scale.step_done()
        if self.processes.is_main and not any(moved for *_, moved in seen):
            warnings.warn(
                f"the gradient of {self.name} with respect to "
                f"{', '.join(self.variable.tensors())} is exactly 0 for all examples of a step, "
                "which teach nothing: metric or pictures are flat there (a threshold that all "
                "have passed? a learning rate that drove them to black or white?), or what is "
                f"learned has no effect on these pictures",
                AdjointDPMWarning,
                stacklevel=2,
            )

    @property
    def _weights(self) -> dict[str, float]:
        """Of the terms of the objective, by name."""
        metric = "metric" if self.enough is None else "excess"
        kl = 0.0 if self.drift is None else self._content * self.settings.kl
        held = "drift" if self.misfit is None else "misfit"
        weights = {metric: 1.0, held: self._content * self.settings.preservation, "kl": kl}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def _content(self) -> float:
        return 1.0 if self.content is None else self.content

    def _parts(
        self, images: Tensor, examples: Sequence[Example], draw: str = LOOK
    ) -> dict[str, Tensor]:
        """The terms that the pictures decide, `[B]` each."""
        prompts = [example.prompt for example in examples]
        shown = as_shown(images)
        scores = score(self.metric, shown, prompts, draw)
        parts = {"metric": scores}
        if self.enough is not None:
            parts["excess"] = (scores - self.enough).relu()
        if self.settings.preservation and self.misfit is not None:
            parts["misfit"] = score(self.misfit, shown, prompts, draw)
        elif self.settings.preservation:
            plain = torch.stack([self.plain[example] for example in examples]).to(images)
            parts["drift"] = structure_distance(images, plain)
        return parts

    def _regularisers(self) -> dict[str, Tensor]:
        return self.variable.regularisers() if self.settings.regularisers else {}

    def _regulariser_values(self) -> Values:
        values = self._regularisers()
        return {name: values[name].item() for name in self.settings.regularisers}

    def _values(self, rows: list[Row]) -> Values:
        """Means over all processes' rows.

        They are the same bits in each process: they decide which state is kept and when the run
        stops.
        """
        every = self.processes.gather(rows)
        means = {name: math.fsum(row[name] for row in every) / len(every) for name in every[0]}
        extra = self.processes.from_main(self._regulariser_values)
        values = means | extra
        values["objective"] = self.total(values)
        if "guard" in means:
            off = [(row["guard"] - means["guard"]) ** 2 for row in every]
            values["guard_error"] = (math.fsum(off) / max(1, len(off) - 1) / len(off)) ** 0.5
        return values

    def _draw_plain(self, examples: Sequence[Example]) -> dict[Example, Tensor]:
        """Every example's plain picture on the CPU; one process draws it, and all have it."""
        unique = list(dict.fromkeys(examples))
        mine = self.processes.share(unique)
        pictures = torch.empty(0)
        with self.processes.together(), self.variable.disabled():
            if mine:
                pictures = torch.cat([images.cpu() for _, images in self.render.draw(mine)])
        return dict(zip(unique, self.processes.gather(pictures), strict=True))


def _check_regularisers(variable: Variable, settings: Settings) -> None:
    for name in settings.regularisers:
        known = variable.regularisers()
        if name not in known:
            raise InvalidInputError(
                f"{name}={getattr(settings, name)} asks for a regulariser that "
                f"{type(variable).__name__} does not have; it has {', '.join(known) or 'none'}; "
                f"set {name}=0"
            )


def _add(tensors: Sequence[Tensor], gradients: list[Tensor | None]) -> None:
    """Add to the tensors' `grad`, which shares no memory with anything.

    `gradients` is emptied on the way, so that few of them are there twice at a time.
    """
    for tensor in reversed(tensors):
        gradient = gradients.pop()
        if gradient is not None:
            tensor.grad = gradient.clone() if tensor.grad is None else tensor.grad + gradient


def _rows(parts: dict[str, Tensor], of_all: Row) -> list[Row]:
    """A row for each example: its own terms, and those that are known of all together."""
    columns = {name: values.tolist() for name, values in parts.items()}
    return [
        dict(zip(columns, row, strict=True)) | of_all for row in zip(*columns.values(), strict=True)
    ]


def _plus(a: Tensor | None, b: Tensor | None, weight: float) -> Tensor | None:
    """A + weight · b."""
    if b is None:
        return a
    return weight * b if a is None else a + weight * b
