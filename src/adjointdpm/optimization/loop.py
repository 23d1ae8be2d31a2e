"""The one loop: variable × metric × gradient method."""

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from adjointdpm.engine.stats import stats
from adjointdpm.errors import MetricError, PromptError
from adjointdpm.metrics import Metric
from adjointdpm.optimization.auto_agreement import adopt, agreed
from adjointdpm.optimization.averaging import Average
from adjointdpm.optimization.objective import (
    Objective,
    check_regularisers,
    check_tensors,
    draw_plain,
)
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.optimization.settings import Settings
from adjointdpm.optimization.state import LoopState
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.runs.interruption import Interrupted, stop_requests
from adjointdpm.runs.trackers import Trackers
from adjointdpm.support.distributed import Processes
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
        former_calls, former_seconds: network calls of all processes, and seconds, of the earlier
            sessions of a resumed run.

    """

    history: list[Record] = field(default_factory=list)
    best_iteration: int = 0
    stopped: str = "all iterations done"
    former_calls: int = 0
    former_seconds: float = 0.0


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
    trackers: Trackers | None = None,
) -> Outcome:
    """Minimise `Objective` over the training examples: metric, preservation of the drawing and the
    variable's regularisers.

    Call it inside the variable's context. Under `accelerate launch` every process calls it with the
    same arguments: they share out the examples of each step and of each look at the validation
    examples, and all return what one process would have returned, to rounding. On the CPU a resumed
    run gives bit for bit the numbers of an uninterrupted one. What the gradient method `Auto`
    decides in several processes is measured on fewer examples than in one, and the process counts
    whose examples need most.

    As long as it runs, nothing else in the pipeline requires grad. Gradients through networks in
    float16 are scaled into its range, see `GradientScale`; the records hold what they are without
    that.

    Args:
        render: draws the examples, and fixes the gradient method.
        variable: what is learned; on return it holds the state with the best validation objective
            (the start counts too). Every process starts from the main one's tensors.
        metric: lower is better; probe it beforehand (`metrics.probe`).
        training: the pool that minibatches come from, each example once before any comes again.
        validation: examples that choose the best state and the moment to stop; report results on
            others.
        settings: see `Settings`.
        checkpoints: where states are saved, every `checkpoint_every` iterations and when
            interrupted; None saves nothing.
        history: with `resume`, the records so far.
        resume: go on from the newest checkpoint that can be read.
        on_history: called after every iteration with all records so far, in the main process;
            record 0 is the start. With a gradient method that estimates its relative error they
            hold that as "gradient_error_estimate", the mean over examples.
        trackers: get every new record, in the main process.

    Raises:
        PromptError: no training or no validation examples.
        PromptError, InvalidInputError: the variable cannot be used with an example, see its
            `check`.
        InvalidInputError: a regulariser is asked for that the variable does not have.
        InvalidTypeError: what is learned is in float16.
        MetricError: the metric or the gradient became NaN or infinite, or no gradient reached the
            variable.
        Interrupted: a signal arrived in any process; the run can be resumed.
        CheckpointError: `resume` without a readable checkpoint of this run.
        OutputError: a checkpoint could not be written; the one before is untouched.

    Warns:
        AdjointDPMWarning: the gradient is exactly 0 for all examples of a step.

    """
    if not training or not validation:
        raise PromptError(
            f"{len(training)} training and {len(validation)} validation examples; both need at "
            f"least one prompt"
        )
    check_regularisers(variable, settings)
    check_tensors(variable)
    variable.check([*training, *validation])
    processes, outcome = Processes(), Outcome()
    begun, calls_before = time.perf_counter(), render.counter.calls
    tensors = variable.tensors()
    processes.copy_from_main_(tensors.values())
    adam = torch.optim.Adam(tensors.values(), lr=settings.learning_rate)
    state = LoopState(variable, adam, Average(variable, settings.ema))
    if resume:
        assert checkpoints is not None
        state.restore(processes.from_main(checkpoints.read))
        former = processes.from_main(lambda: list(history))
        outcome.history = [
            record for record in former if record["iteration"] <= state.progress.iteration
        ]
        adopt(render, state.progress.gradients)
    progress = state.progress
    outcome.former_calls, outcome.former_seconds = progress.network_calls, progress.seconds
    used = _minibatch(
        training, min(len(training), settings.iterations * settings.step_examples), 0, settings.seed
    )
    plain = (
        draw_plain(render, variable, [*used, *validation], processes)
        if settings.preservation
        else {}
    )
    objective = Objective(render, variable, metric, settings, processes, plain, state.scale)

    def validate() -> dict[str, float]:
        with state.average.in_place():
            values = objective.look(validation)
            state.consider(values["objective"])
        return values

    def note(record: Record) -> None:
        outcome.history.append(record)

        def tell() -> None:
            on_history(outcome.history)
            if trackers is not None:
                trackers.log(record)

        processes.from_main(tell)

    def checkpoint() -> None:
        progress.network_calls = outcome.former_calls + sum(
            processes.gather([render.counter.calls - calls_before])
        )
        progress.seconds = outcome.former_seconds + time.perf_counter() - begun
        if (target := checkpoints) is not None:
            processes.from_main(lambda: state.save(target))

    with ExitStack() as stack:
        stop_requested = stack.enter_context(stop_requests())
        stack.enter_context(frozen(render.model.pipe, tensors.values()))
        if trackers is not None:
            stack.callback(trackers.finish)
        if not outcome.history:
            note({"iteration": 0, "validation": validate()})
        while (
            progress.iteration < settings.iterations
            and progress.looks_without_progress < settings.patience
        ):
            started = time.perf_counter()
            examples = _minibatch(
                training, settings.step_examples, progress.iteration, settings.seed
            )
            adam.param_groups[0]["lr"] = settings.learning_rate_at(progress.iteration)
            adam.zero_grad()
            with stats(memory=False) as counted:
                values = objective.backward(examples)
            progress.gradients = agreed(render, processes)
            norm = _clip(metric, variable, settings.max_gradient_norm)
            adam.step()
            variable.project()
            progress.iteration += 1
            state.average.update(progress.iteration)
            record: Record = {
                "iteration": progress.iteration,
                "training": values,
                "gradient_norm": norm,
            }
            estimates = processes.gather(
                [e for found in counted.error_estimates for e in found.tolist() if math.isfinite(e)]
            )
            if estimates:  # few-VJP gradients tell how far they are off
                record["gradient_error_estimate"] = sum(estimates) / len(estimates)
            if (
                progress.iteration % settings.validate_every == 0
                or progress.iteration == settings.iterations
            ):
                record["validation"] = validate()
            note(record | {"seconds": time.perf_counter() - started})
            if processes.any(stop_requested()):
                checkpoint()
                where = (
                    f"in {checkpoints.folder}; resume to go on"
                    if checkpoints
                    else "nowhere: this run keeps no checkpoints"
                )
                raise Interrupted(f"stopped after iteration {progress.iteration}, saved {where}")
            if progress.iteration % settings.checkpoint_every == 0:
                checkpoint()
    if progress.looks_without_progress >= settings.patience:
        outcome.stopped = f"no better validation objective in {settings.patience} looks"
    checkpoint()
    variable.load_tensors(state.best)
    outcome.best_iteration = progress.best_iteration
    return outcome


def _minibatch(pool: Sequence[Example], size: int, step: int, seed: int) -> list[Example]:
    """The examples of step number `step`, from 0: a function of its arguments, so that a resumed
    run needs no generator's state.
    """
    chosen = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, len(pool))
        chosen.append(random.Random(f"{seed} {epoch}").sample(pool, len(pool))[place])
    return chosen


def _clip(metric: Metric, variable: Variable, max_norm: float) -> float:
    """Clip the gradient to `max_norm` and return its norm before that."""
    tensors = variable.tensors()
    norm = torch.nn.utils.clip_grad_norm_(tensors.values(), max_norm).item()
    if not math.isfinite(norm):
        raise MetricError(
            f"the gradient of {metric.name} with respect to {', '.join(tensors)} became {norm}; "
            f"lower the learning rate"
        )
    return norm
