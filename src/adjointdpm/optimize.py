"""The one loop: variable × metric × gradient method."""

import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adjointdpm.checkpoints import Checkpoints
from adjointdpm.errors import InvalidInputError, MetricError, PromptError
from adjointdpm.metrics import Metric, check_scores, structure_distance
from adjointdpm.rendering import Example, Renderer
from adjointdpm.variables import Variable

Record = dict[str, Any]  # one line of history.jsonl


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; the state after the last whole iteration is saved."""


@dataclass(frozen=True)
class Settings:
    """How the loop runs.

    Args:
        iterations: optimiser steps at most.
        batch: examples per step.
        learning_rate: of Adam (Kingma & Ba 2015).
        max_gradient_norm: the gradient is scaled down to this norm.
        preservation: weight of the structure distance to the plain picture of the same prompt and seed. A metric alone is over-optimised:
            every prompt ends as the same picture.
        validate_every: iterations between looks at the validation examples.
        patience: stop after this many looks without a better objective; the best state is returned in any case.
        checkpoint_every: iterations between checkpoints.
        seed: of the order in which examples are used.

    Raises:
        InvalidInputError: a value out of range.

    """

    iterations: int = 20
    batch: int = 2
    learning_rate: float = 0.05
    max_gradient_norm: float = 1.0
    preservation: float = 1.0
    validate_every: int = 5
    patience: int = 2
    checkpoint_every: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "validate_every", "patience", "checkpoint_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidInputError(f"{name}={value!r} must be an int of at least 1")
        for name in ("learning_rate", "max_gradient_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidInputError(f"{name}={getattr(self, name)!r} must be a positive number")
        if not 0 <= self.preservation < math.inf:
            raise InvalidInputError(f"preservation={self.preservation!r} must be at least 0")


@dataclass
class Outcome:
    """What a run of the loop did. The variable holds the best state."""

    history: list[Record] = field(default_factory=list)
    best_iteration: int = 0
    stopped: str = "all iterations done"


@dataclass
class _State:
    """Everything that decides how the run goes on; `iteration` is the number of steps done."""

    iteration: int = 0
    best_objective: float = math.inf
    best_iteration: int = 0
    looks_without_progress: int = 0


def optimize(
    render: Renderer,
    variable: Variable,
    metric: Metric,
    training: Sequence[Example],
    validation: Sequence[Example],
    settings: Settings,
    *,
    checkpoints: Checkpoints | None = None,
    history: Sequence[Record] = (),
    resume: bool = False,
    on_history: Callable[[list[Record]], None] = lambda history: None,
) -> Outcome:
    """Minimise mean(metric) + preservation · mean(structure distance to the plain picture) over the training examples.

    Call it inside the variable's context. On the CPU a resumed run gives bit for bit the numbers of an uninterrupted one.

    Args:
        render: draws the examples, and fixes the gradient method.
        variable: what is learned; on return it holds the state with the best validation objective (the start counts too).
        metric: lower is better; probe it beforehand (`metrics.probe`).
        training: the pool that minibatches come from, each example once before any comes again.
        validation: examples that choose the best state and the moment to stop; report results on others.
        settings: see `Settings`.
        checkpoints: where states are saved, every `checkpoint_every` iterations and when interrupted; None saves nothing.
        history: with `resume`, the records so far.
        resume: go on from the newest checkpoint.
        on_history: called after every iteration with all records so far; record 0 is the start.

    Raises:
        PromptError: no training or no validation examples.
        MetricError: the metric or the gradient became NaN or infinite, or no gradient reached the variable.
        Interrupted: a signal arrived; the run can be resumed.
        CheckpointError: `resume` without a readable checkpoint of this run.

    """
    if not training or not validation:
        raise PromptError(f"{len(training)} training and {len(validation)} validation examples; both need at least one prompt")
    tensors = variable.tensors()
    adam = torch.optim.Adam(tensors.values(), lr=settings.learning_rate)
    state, best = _State(), {name: tensor.detach().clone() for name, tensor in tensors.items()}
    outcome = Outcome()
    if resume:
        assert checkpoints is not None
        state, best = _restore(checkpoints, variable, adam)
        outcome.history = [record for record in history if record["iteration"] <= state.iteration]
    plain = dict(zip([*training, *validation], render.look([*training, *validation]), strict=True))

    def objective(images: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Record]:
        scores = metric(images)
        check_scores(metric, scores, len(examples))
        if images.requires_grad and not scores.requires_grad:
            raise MetricError(f"metric {metric.name} blocks gradients; nothing could be learned from it")
        drift = structure_distance(images, torch.stack([plain[e] for e in examples]).to(images))
        total = scores.mean() + settings.preservation * drift.mean()
        return total, {"metric": scores.mean().item(), "drift": drift.mean().item(), "objective": total.item()}

    def validate() -> Record:
        _, values = objective(render.look(validation, variable), validation)
        if values["objective"] < state.best_objective:
            state.best_objective, state.best_iteration, state.looks_without_progress = values["objective"], state.iteration, 0
            best.update({name: tensor.detach().clone() for name, tensor in tensors.items()})
        else:
            state.looks_without_progress += 1
        return values

    def note(record: Record) -> None:
        outcome.history.append(record)
        on_history(outcome.history)

    def checkpoint() -> None:
        if checkpoints is not None:
            _save(checkpoints, state, variable, best, adam)

    with _stop_requests() as stop_requested:
        if not outcome.history:
            note({"iteration": 0, "validation": validate()})
        while state.iteration < settings.iterations and state.looks_without_progress < settings.patience:
            started = time.perf_counter()
            examples = _minibatch(training, settings.batch, state.iteration, settings.seed)
            adam.zero_grad()
            total, values = objective(render(examples, variable), examples)
            total.backward()
            norm = _check_gradient(metric, tensors, settings.max_gradient_norm)
            adam.step()
            variable.project()
            state.iteration += 1
            record = {"iteration": state.iteration, "training": values, "gradient_norm": norm}
            if state.iteration % settings.validate_every == 0 or state.iteration == settings.iterations:
                record["validation"] = validate()
            note(record | {"seconds": time.perf_counter() - started})
            if stop_requested():
                checkpoint()
                where = f"in {checkpoints.folder}; resume to go on" if checkpoints else "nowhere: this run keeps no checkpoints"
                raise Interrupted(f"stopped after iteration {state.iteration}, saved {where}")
            if state.iteration % settings.checkpoint_every == 0:
                checkpoint()
    if state.looks_without_progress >= settings.patience:
        outcome.stopped = f"no better validation objective in {settings.patience} looks"
    checkpoint()
    variable.load_tensors(best)
    outcome.best_iteration = state.best_iteration
    return outcome


def _minibatch(pool: Sequence[Example], batch: int, iteration: int, seed: int) -> list[Example]:
    """The examples of one iteration: a function of (seed, iteration), so that a resumed run needs no generator's state."""
    chosen = []
    for position in range(iteration * batch, (iteration + 1) * batch):
        epoch, place = divmod(position, len(pool))
        chosen.append(random.Random(f"{seed} {epoch}").sample(pool, len(pool))[place])
    return chosen


def _check_gradient(metric: Metric, tensors: dict[str, Tensor], max_norm: float) -> float:
    """Clip the gradient to `max_norm` and return its norm before that."""
    if all(tensor.grad is None for tensor in tensors.values()):
        raise MetricError(f"no gradient of {metric.name} reached {', '.join(tensors)}; the metric or the model detaches it")
    norm = torch.nn.utils.clip_grad_norm_(tensors.values(), max_norm).item()
    if not math.isfinite(norm):
        raise MetricError(f"the gradient of {metric.name} with respect to {', '.join(tensors)} became {norm}; lower the learning rate")
    return norm


def _save(checkpoints: Checkpoints, state: _State, variable: Variable, best: dict[str, Tensor], adam: torch.optim.Adam) -> None:
    tensors = {f"now/{name}": tensor for name, tensor in variable.tensors().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for index, slots in adam.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{slot}": value for slot, value in slots.items()}
    facts = vars(state) | {"best_objective": state.best_objective.hex()}  # every bit of it
    checkpoints.write(state.iteration, tensors, facts)


def _restore(checkpoints: Checkpoints, variable: Variable, adam: torch.optim.Adam) -> tuple[_State, dict[str, Tensor]]:
    tensors, facts = checkpoints.read()
    groups: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "adam": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor
    variable.load_tensors(groups["now"])
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in groups["adam"].items():
        index, _, slot = name.partition("/")
        slots.setdefault(int(index), {})[slot] = tensor
    adam.load_state_dict(adam.state_dict() | {"state": slots})
    facts["best_objective"] = float.fromhex(facts["best_objective"])
    return _State(**facts), groups["best"]


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request to stop after this iteration; the second one acts as usual."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: False
        return
    requested = False
    former: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: object) -> None:
        nonlocal requested
        requested = True
        signal.signal(number, former[number])

    for number in former:
        signal.signal(number, request)
    try:
        yield lambda: requested
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
