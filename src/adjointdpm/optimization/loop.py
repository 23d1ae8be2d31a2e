"""The one loop: variable × objective × optimiser."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from adjointdpm.engine.gradients import resolve
from adjointdpm.engine.stats import Stats, stats
from adjointdpm.errors import (
    AdjointDPMError,
    InvalidTypeError,
    MetricError,
    OutputError,
    PromptError,
)
from adjointdpm.optimization.auto_agreement import adopt, agreed
from adjointdpm.optimization.averaging import Average
from adjointdpm.optimization.gradient_check import is_exact
from adjointdpm.optimization.guard import Guard
from adjointdpm.optimization.objective import Objective
from adjointdpm.optimization.optimizers import make_optimizer
from adjointdpm.optimization.second_try import LARGER, MARK, Try, second_try, tried_again
from adjointdpm.optimization.selection import Selection
from adjointdpm.optimization.settings import Settings
from adjointdpm.optimization.state import LoopState
from adjointdpm.optimization.stored_state import check_stored
from adjointdpm.runs.checkpoints import Checkpoints, Stored
from adjointdpm.runs.going_on import say_how_to_go_on
from adjointdpm.runs.interruption import Interrupted, stop_requests
from adjointdpm.runs.trackers import Trackers
from adjointdpm.support.distributed import Processes
from adjointdpm.support.user_code import blamed_file
from adjointdpm.variables import Example, Variable
from adjointdpm.variables.freezing import frozen

__all__ = ["Interrupted", "Outcome", "Record", "Settings", "optimize"]

Record = dict[str, Any]  # one line of history.jsonl


@dataclass
class Outcome:
    """What a run of the loop did. The variable holds the best state.

    Args:
        history: the records of all iterations.
        best_iteration: after which the best state was reached.
        stopped: why the run ended.
        content: the factor of the content's weights in the end, see `MetricObjective`.
        former_calls, former_seconds: network calls of all processes, and seconds, of the earlier
            sessions of a resumed run.

    """

    history: list[Record] = field(default_factory=list)
    best_iteration: int = 0
    stopped: str = "all iterations done"
    content: float = 1.0
    former_calls: int = 0
    former_seconds: float = 0.0


def optimize(
    objective: Objective,
    variable: Variable,
    training: Sequence[Example],
    validation: Sequence[Example],
    settings: Settings,
    *,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    on_history: Callable[[list[Record]], None] = lambda history: None,
    trackers: Trackers | None = None,
    guard: Guard | None = None,
    retry_after: int = 0,
    in_part: bool = False,
    prepared: int = 0,
) -> Outcome:
    """Minimise an objective over the training examples.

    Call it inside the variable's context. While it runs, nothing else in the pipeline requires
    grad. Under `accelerate launch` every process calls it with the same arguments: they share out
    the examples, and all return what one process would have returned, to rounding. On the CPU a
    resumed run gives bit for bit the numbers of an uninterrupted one.

    Args:
        objective: what is minimised, such as a `MetricObjective`; lower is better.
        variable: what is learned. On return it holds the state with the best validation objective,
            which may be the start. Every process starts from the main one's tensors.
        training: the pool that minibatches come from, each example once before any comes again.
        validation: examples that choose the best state and the moment to stop; report results on
            others.
        settings: see `Settings`.
        checkpoints: where states are saved, every `checkpoint_every` iterations and when
            interrupted; None saves nothing.
        resume: go on from the newest checkpoint that can be read, which holds all records so far;
            without any, start.
        on_history: called in the main process after every iteration, with all records so far;
            record 0 is the start. A gradient method that estimates its relative error adds
            "gradient_error_estimate", the mean over examples.
        trackers: get every new record, in the main process.
        guard: decides which states may be the best, and ends a run that only pleases its metric;
            the objective's looks must have its values.
        retry_after: the iteration after which a run that has gained nothing takes larger steps or
            the exact gradient; 0: never. See `second_try`.
        in_part: whether the guard chooses afterwards how much of the best state is kept. As long as
            it takes no state whole, the best that it refuses is kept.
        prepared: network calls of this process before, in this session, which count too.

    Raises:
        PromptError: no training or no validation examples, or see `Variable.check`.
        InvalidInputError, MetricError: see `Variable.check` and the objective.
        InvalidTypeError: what is learned is in float16.
        MetricError: the gradient became NaN or infinite.
        Interrupted: a signal arrived in any process; the run can be resumed.
        CheckpointError: there are checkpoints to resume from, and none that can be used.
        OutputError: a checkpoint could not be written, the one before is untouched; or the disk
            has no room for checkpoints.

    """
    run = _Run(objective, variable, training, validation, settings, checkpoints)
    run.on_history, run.trackers, run.guard = on_history, trackers, guard
    run.retry_after, run.in_part = retry_after, in_part
    with stats(memory=False) as run.cost:
        run.cost.network_calls = prepared
        run.prepare(resume)
        return run.learn()


class _Run:
    """One session of the loop."""

    on_history: Callable[[list[Record]], None]
    trackers: Trackers | None
    guard: Guard | None
    retry_after: int
    in_part: bool
    selection: Selection
    cost: Stats  # of this session and process so far
    searching: bool = False  # in the middle of a line search

    def __init__(
        self,
        objective: Objective,
        variable: Variable,
        training: Sequence[Example],
        validation: Sequence[Example],
        settings: Settings,
        checkpoints: Checkpoints | None,
    ) -> None:
        if not training or not validation:
            raise PromptError(
                f"{len(training)} training and {len(validation)} validation examples; both need at "
                f"least one prompt"
            )
        _check_tensors(variable)
        variable.check([*training, *validation])
        self.objective, self.variable, self.settings = objective, variable, settings
        self.training, self.validation, self.checkpoints = training, validation, checkpoints
        self.processes, self.outcome, self.begun = Processes(), Outcome(), time.perf_counter()
        tensors = list(variable.tensors().values())
        self.processes.copy_from_main_(tensors)
        units = list(variable.units().values())
        self.optimizer = make_optimizer(settings.optimizer, tensors, settings.lr, units)
        self.state = LoopState(variable, objective, self.optimizer, Average(variable, settings.ema))

    def prepare(self, resume: bool) -> None:
        """Go back to a checkpoint, and prepare the objective for the examples that will be used."""
        settings, processes = self.settings, self.processes
        if (target := self.checkpoints) is not None:
            processes.from_main(lambda: target.check_space(self.state.size()))
            if resume and not processes.from_main(lambda: target.is_empty):
                self.restore(processes.from_main(lambda: target.read(check_stored)))
        count = min(len(self.training), settings.iterations * settings.step_examples)
        used = _minibatch(self.training, count, 0, settings.seed)
        self.objective.prepare(self.variable, [*used, *self.validation], settings)
        self.selection = Selection(
            self.objective,
            self.validation,
            self.state,
            settings,
            self.outcome.history,
            self.guard,
            self.in_part,
        )

    def restore(self, stored: Stored) -> None:
        """Go on from a checkpoint."""
        outcome = self.outcome
        outcome.history = self.state.restore(stored)
        progress = self.state.progress
        outcome.former_calls, outcome.former_seconds = progress.network_calls, progress.seconds
        adopt(self.objective.render, progress.gradients)
        if tried_again(outcome.history)[1] == "the exact gradient":
            self.take_exact_gradients()

    def take_exact_gradients(self) -> None:
        """Differentiate all steps from now on."""
        self.objective.render = replace(self.objective.render, gradient=resolve("exact"))

    def learn(self) -> Outcome:
        """Iterate until all is done, nothing gets better, or a signal arrives."""
        progress, settings, outcome = self.state.progress, self.settings, self.outcome
        pipe, tensors = self.objective.render.model.pipe, self.variable.tensors().values()
        with ExitStack() as stack:
            stop_requested = stack.enter_context(stop_requests())
            stack.enter_context(frozen(pipe, tensors))
            if self.trackers is not None:
                stack.callback(self.trackers.finish)
            stack.enter_context(self.saved_if_it_fails())
            if not outcome.history:
                self.note({"iteration": 0, "validation": self.selection.look()})
            self.settle()
            while progress.unseen is not None or (
                progress.iteration < settings.iterations
                and progress.looks_without_progress < settings.patience
                and not self.selection.hacked()
            ):
                if progress.unseen is None:
                    progress.unseen = self.step()
                self.note(self.looked_at(progress.unseen))
                if self.processes.any(stop_requested()):
                    self.stop()
                if progress.iteration % settings.checkpoint_every == 0:
                    self.save()
        if progress.looks_without_progress >= settings.patience:
            outcome.stopped = f"no better validation objective in {settings.patience} looks"
        if reason := self.selection.hacked():
            outcome.stopped = reason
        self.save()
        self.variable.load_tensors(self.state.best)
        outcome.best_iteration = progress.best_iteration
        return outcome

    def settle(self) -> None:
        """Let the objective settle, which may change what the first look was worth."""
        self.objective.settle()
        first, progress = self.outcome.history[0]["validation"], self.state.progress
        if len(self.outcome.history) == 1 and math.isfinite(progress.best_objective):
            first["objective"] = self.objective.total(first)
            self.state.judge_anew(first["objective"], first["objective"])

    @contextmanager
    def saved_if_it_fails(self) -> Iterator[None]:
        """Save the state that an exception leaves, so that the run can go on once it is mended.

        A step that fails has changed nothing yet, and a look that fails is taken again.

        Raises:
            MetricError: in place of what code of the user's raised in a backward pass.
            Interrupted: in place of a KeyboardInterrupt.

        """
        try:
            yield
        except Interrupted:
            raise
        except BaseException as failure:
            self.save_alone(failure)
            notes = "\n".join(getattr(failure, "__notes__", []))
            if isinstance(failure, KeyboardInterrupt):
                done = self.state.progress.iteration
                raise Interrupted(f"stopped at once, in iteration {done + 1}\n{notes}") from failure
            if not isinstance(failure, AdjointDPMError) and (blamed := blamed_file(failure)):
                raise MetricError(f"{blamed}\n{notes}") from failure
            raise

    def save_alone(self, failure: BaseException) -> None:
        """Write a checkpoint without asking other processes, which may be gone."""
        target, searching = self.checkpoints, self.searching
        # A line search that is cut off has moved already: the last checkpoint has to do.
        # Nothing to save before the first record, and nowhere to on a full disk.
        futile = not self.outcome.history or isinstance(failure, OutputError)
        if target is None or searching or futile or not self.processes.is_main:
            return
        if self.processes.count == 1:
            self.count_cost(self.cost.network_calls)
        try:
            self.state.save(target, self.outcome.history)
            say_how_to_go_on(failure, target.folder)
        except OutputError as error:
            failure.add_note(f"Nor could the state be saved: {error}")

    def step(self) -> Record:
        """One iteration, and its record but for a look at the pictures."""
        settings, progress, started = self.settings, self.state.progress, time.perf_counter()
        examples = _minibatch(
            self.training, settings.step_examples, progress.iteration, settings.seed
        )
        for group in self.optimizer.param_groups:
            begun, _ = tried_again(self.outcome.history)
            group["lr"] = settings.lr_at(progress.iteration, begun) * progress.step_scale
        evaluated: list[Record] = []  # a line search evaluates more than once

        def evaluate() -> float:
            self.optimizer.zero_grad()
            values = self.objective.backward(examples)
            progress.gradients = agreed(self.objective.render, self.processes)
            evaluated.append({"training": values, "gradient_norm": self.clip()})
            return values["objective"]

        with stats(memory=False) as counted:
            self.searching = isinstance(self.optimizer, torch.optim.LBFGS)
            self.optimizer.step(evaluate)
            self.searching = False
        self.variable.project()
        progress.iteration += 1
        self.state.average.update(progress.iteration)
        record: Record = {"iteration": progress.iteration} | evaluated[0]
        record["network_calls"] = sum(self.processes.gather([counted.network_calls]))
        estimates = self.processes.gather(
            [e for found in counted.error_estimates for e in found.tolist() if math.isfinite(e)]
        )
        if estimates:  # few-VJP gradients tell how far they are off
            record["gradient_error_estimate"] = sum(estimates) / len(estimates)
        return record | {"seconds": time.perf_counter() - started}

    def looked_at(self, record: Record) -> Record:
        """The record of a step, with what a look at the pictures says if it is time for one."""
        settings, progress, started = self.settings, self.state.progress, time.perf_counter()
        added: Record = {}  # so that the record is as it was if the look fails
        if (
            progress.iteration % settings.validate_every == 0
            or progress.iteration == settings.iterations
        ):
            with stats(memory=False) as looked:
                added["validation"] = self.selection.look()
            calls = sum(self.processes.gather([looked.network_calls]))
            added["network_calls"] = record["network_calls"] + calls
            if self.selection.lower_content(added["validation"]):
                added["content_lowered"] = True
            looks = progress.looks_without_progress
            worse = settings.backtrack and looks and looks % settings.backtrack == 0
            if worse or self.selection.is_astray(record | added):
                self.state.go_back()
                added["step_scale"] = progress.step_scale
            history = [*self.outcome.history, record | added]
            exact = is_exact(resolve(self.objective.render.gradient))
            if self.retry_after < settings.iterations and (
                now := second_try(history, self.retry_after, self.objective.spread, exact=exact)
            ):
                self.begin_second_try(now)
                added[MARK] = now
        progress.unseen = None
        added["seconds"] = record.pop("seconds") + time.perf_counter() - started
        return record | added

    def begin_second_try(self, what: Try) -> None:
        """Take larger steps from here on, or exact gradients from the best state on."""
        progress = self.state.progress
        if what == "larger steps":
            progress.step_scale, progress.looks_without_progress = LARGER, 0
        else:
            self.state.begin_again()
            self.take_exact_gradients()

    def clip(self) -> float:
        """Clip the gradient, and return its norm before that."""
        tensors = self.variable.tensors()
        # A line search needs the gradient of the values that it sees.
        searches = isinstance(self.optimizer, torch.optim.LBFGS)
        bound = math.inf if searches else self.settings.clip
        norm = torch.nn.utils.clip_grad_norm_(tensors.values(), bound).item()
        if not math.isfinite(norm):
            raise MetricError(
                f"the gradient of {self.objective.name} with respect to {', '.join(tensors)} "
                f"became {norm}; lower the learning rate"
            )
        return norm

    def note(self, record: Record) -> None:
        """Add a record, and tell everybody who wants to know."""
        self.outcome.history.append(record)

        def tell() -> None:
            self.on_history(self.outcome.history)
            if self.trackers is not None:
                self.trackers.log(record)

        self.processes.from_main(tell)

    def save(self) -> None:
        """Write a checkpoint, if they are kept."""
        self.count_cost(sum(self.processes.gather([self.cost.network_calls])))
        if (target := self.checkpoints) is not None:
            self.processes.from_main(lambda: self.state.save(target, self.outcome.history))

    def count_cost(self, calls: int) -> None:
        """Note what all sessions cost, with so many network calls in this one."""
        progress, outcome = self.state.progress, self.outcome
        progress.network_calls = outcome.former_calls + calls
        progress.seconds = outcome.former_seconds + time.perf_counter() - self.begun

    def stop(self) -> None:
        """Save, and raise Interrupted."""
        self.save()
        where = "nowhere: this run keeps no checkpoints"
        if self.checkpoints is not None:
            where = f"in {self.checkpoints.folder}; resume to go on"
        raise Interrupted(f"stopped after iteration {self.state.progress.iteration}, saved {where}")


def _minibatch(pool: Sequence[Example], size: int, step: int, seed: int) -> list[Example]:
    """The examples of step number `step`, counted from 0.

    They are a function of the arguments, so that a resumed run needs no generator's state.
    """
    chosen = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, len(pool))
        chosen.append(random.Random(f"{seed} {epoch}").sample(pool, len(pool))[place])
    return chosen


def _check_tensors(variable: Variable) -> None:
    """Raise InvalidTypeError if something would be learned in float16.

    The numbers that Adam divides by are 0 there, and its steps NaN.
    """
    for name, tensor in variable.tensors().items():
        if tensor.dtype == torch.float16:
            raise InvalidTypeError(
                f"{name} of {type(variable).__name__} is in float16, in which an optimiser's steps "
                f"are lost or NaN; keep what is learned in float32 and cast it where it is used, "
                f"or load the pipeline in bfloat16 or float32"
            )
