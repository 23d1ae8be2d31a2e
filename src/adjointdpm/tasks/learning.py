"""What all learning tasks share: run the loop, draw and score pictures, fill the run folder."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from adjointdpm import metrics
from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.engine.stats import stats
from adjointdpm.errors import MetricError
from adjointdpm.metrics import Metric
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.gradient_check import gradient_error, is_exact
from adjointdpm.optimization.guard import Guard
from adjointdpm.optimization.loop import Outcome, Record, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.optimization.second_try import tried_again
from adjointdpm.pipelines.arguments.call_arguments import call_arguments, loaded
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.going_on import told_how_to_go_on
from adjointdpm.runs.provenance import package_versions, peak_memory_bytes
from adjointdpm.support.distributed import Processes
from adjointdpm.support.memory import check_room
from adjointdpm.tasks.config import Sampling, Sets, TaskConfig, settings_of
from adjointdpm.tasks.diagnosis import ADVICE
from adjointdpm.tasks.evaluation import evaluate
from adjointdpm.tasks.metric_spreads import on_reward_device, spread_of, with_spreads
from adjointdpm.tasks.previews import Previews
from adjointdpm.tasks.strength import settle_strength
from adjointdpm.tasks.watch import Watch
from adjointdpm.variables import Example, Variable
from adjointdpm.variables.freezing import frozen

# Of a picture's size, at the very least: what a network and its gradient hold at the same time.
_COPIES = 8


@dataclass(frozen=True)
class Story:
    """What the report says in words; text between backticks is set as code.

    Args:
        title, lead: the heading and what was done.
        views: how the report calls each view of a picture, "before" first and "after" last.
        how: paragraphs on how it was learned.
        use: how to use the artefact.
        code: lines that do.

    """

    title: str
    lead: str
    views: Mapping[str, str]
    how: Sequence[str] = ()
    use: str = ""
    code: Sequence[str] = ()


@dataclass(frozen=True)
class Assignment:
    """One run of one task.

    Args:
        task: its name in `result.json`.
        config: what decides the result.
        variable: what is learned.
        metric: what for.
        sets: on which examples.
        story: what the report says.
        controls: held-out examples as the untouched model draws them in another way, by view.
        recognise: a judge of content, never the optimised metric.
        command: the command line that repeats the run.
        advice: what to do if pictures turn out not to depend on the variable.
        acts: whether pictures can change, where that was tried.
        found: what was found out before the run, for `result.json`.
        calls: network calls that this took, by purpose.
        prepared: network calls of this process for what every session draws anew before the run,
            such as untouched pictures.
        enough: where the metric is good enough; see `MetricObjective`.
        guard: what must not get worse.
        misfit: what preservation weighs in place of the structure distance; see `MetricObjective`.
        strength_examples: with any, how much of what was learned is kept is settled on them.
        strength: how much; None lets the guard choose.
        retry_after: the iteration after which a run that has gained nothing begins its second
            try; 0: never.

    """

    task: str
    config: TaskConfig
    variable: Variable
    metric: Metric
    sets: Sets
    story: Story
    controls: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    recognise: Recogniser | None = None
    command: str = ""
    advice: str = ADVICE
    acts: bool | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    calls: Mapping[str, int] = field(default_factory=dict)
    prepared: int = 0
    enough: float | None = None
    guard: Guard | None = None
    misfit: Metric | None = None
    strength_examples: Sequence[Example] = ()
    strength: float | None = None
    retry_after: int = 0


def renderer(model: Any, config: Sampling) -> Renderer:
    """The renderer that a configuration asks for.

    Raises:
        InvalidInputError: arguments that the pipeline does not take.

    """
    return Renderer(
        model,
        config.steps,
        config.guidance_scale,
        config.sampler,
        resolve_gradient(config.gradient),
        arguments=loaded(call_arguments(model.pipe, config.pipeline_arg)),
    )


def learn(
    model: Any,
    assignment: Assignment,
    folder: RunFolder,
    *,
    resume: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
    render: Renderer | None = None,
) -> dict[str, Any]:
    """Learn, measure on held-out examples, and fill the run folder, all but its report.

    Args:
        model: what `adjointdpm.load` returns; afterwards it is as it was.
        assignment: what to learn, and from what.
        folder: where results are written.
        resume: go on from the folder's checkpoint.
        on_record: called after every iteration.
        render: draws in place of the renderer that the configuration asks for.

    Returns:
        What `result.json` holds; of several processes, only the main one's is complete.

    Raises:
        MetricError, PromptError, CheckpointError, OutputError, Interrupted: see `optimize`, the
            variable and the metric.
        OutputError: what was saved reads back different.

    """
    started, processes = time.perf_counter(), Processes()
    config, variable = assignment.config, assignment.variable
    render = render or renderer(model, config)
    assignment = on_reward_device(assignment)
    if folder.previews:
        previews = Previews(folder, assignment.sets.validation, variable)
        render, on_record = previews.watching(render), previews.before(on_record)
    with ExitStack() as stack:
        counter = stack.enter_context(stats(memory=False))
        counter.network_calls = assignment.prepared
        check_metric(
            render, assignment.metric, assignment.sets.training, config.loop_settings().batch
        )
        stack.enter_context(variable)
        stack.enter_context(frozen(model.pipe, variable.tensors().values()))
        assignment = with_spreads(render, assignment)
        settings, advice, acts = config.loop_settings(), assignment.advice, assignment.acts
        watch = Watch(assignment.metric, variable, settings, advice, acts)
        outcome = _optimise(render, assignment, folder, resume, on_record, watch)
        folder.write_history(outcome.history)  # it may have been lost, and nothing left to do
        stack.enter_context(told_how_to_go_on(folder.checkpoints.folder))
        started -= outcome.former_seconds  # what earlier sessions took counts as well
        optimised, own = time.perf_counter() - started, counter.network_calls
        calls = {**assignment.calls}
        calls["optimising"] = outcome.former_calls + sum(processes.gather([own]))
        result: dict[str, Any] = {"task": assignment.task, "processes": processes.count}
        result |= assignment.found
        if not processes.is_main:
            return result
        if assignment.strength_examples and outcome.best_iteration:
            result["strength"] = settle_strength(
                render,
                variable,
                assignment.metric,
                assignment.strength_examples,
                assignment.guard,
                assignment.strength,
            )
        result["artefact"] = str(variable.save(folder.path).relative_to(folder.path))
        variable.check_saved(folder.path)
        result |= _measured(render, assignment, folder)
        calls["evaluating"] = counter.network_calls - own
        result["gradient"] = _gradient(render, assignment, outcome.history)
        calls["checking the gradient"] = counter.network_calls - own - calls["evaluating"]
        result["guard"] = assignment.guard and assignment.guard.metric.name
        result["optimisation"] = _course(outcome, assignment)
        result["diagnosis"] = watch.verdict(
            outcome.history, result["held_out"], outcome.best_iteration
        )
    result |= {
        "seconds": time.perf_counter() - started,
        "seconds_optimising": optimised,
        "resumed": resume,
        "peak_memory_bytes": peak_memory_bytes(),
        "network_calls": sum(calls.values()),
        "network_calls_by_purpose": calls,
        "seed": config.seed,
        "command": assignment.command,
        "versions": package_versions(),
        "config": settings_of(config),
        "story": asdict(assignment.story),
    }
    folder.write_result(result)
    return result


def check_metric(
    render: Renderer, metric: Metric, training: Sequence[Example], batch: int = 1
) -> None:
    """Probe the metric with samples and prompts such as those it will score.

    Args:
        render: draws the samples.
        metric: what scores them.
        training: examples.
        batch: how many are drawn in one graph; whether that fits into memory is estimated.

    Raises:
        MetricError: the metric does not take such samples, or fails on them.
        AdjointDPMError: the pipeline cannot draw as it is told.

    """
    shape = render.sample_shape(training[0])
    *frames, channels, height, width = (1, *shape)[-4:]
    if len(shape) not in (3, 4) or channels != 3:
        raise MetricError(
            f"{type(render.model.pipe).__name__} makes samples of shape {shape}, which are "
            f"neither pictures (3, H, W) nor videos (F, 3, H, W); metric {metric.name} cannot "
            f"score them"
        )
    check_room(
        (batch, *shape),
        f"a batch of {batch} pictures of {shape} numbers",
        "use a smaller --batch, or smaller pictures",
        device=render.model.device,
        copies=_COPIES,
    )
    metrics.probe(
        metric,
        height,
        width,
        device=render.model.device,
        dtype=render.model.dtype,
        prompts=[example.prompt for example in training],
        frames=frames[0] if len(shape) == 4 else None,
    )


def _optimise(
    render: Renderer,
    assignment: Assignment,
    folder: RunFolder,
    resume: bool,
    on_record: Callable[[Record], None],
    watch: Watch,
) -> Outcome:
    """Run the loop; the variable then holds its best state."""
    config, variable, sets = assignment.config, assignment.variable, assignment.sets
    variable.check([*sets.training, *sets.validation, *sets.held_out])

    def keep(history: list[Record]) -> None:
        watch.note(history)
        folder.write_history(history)
        on_record(history[-1])

    def spread() -> float:
        with variable.disabled():
            watch.spread = spread_of(render, assignment.metric, sets.training)
        return watch.spread

    metric, guard, misfit = watch.watched, assignment.guard, assignment.misfit
    objective = MetricObjective(render, metric, assignment.enough, guard, spread, misfit)
    outcome = optimize(
        objective,
        variable,
        sets.training,
        sets.validation,
        config.loop_settings(),
        checkpoints=folder.checkpoints,
        resume=resume,
        on_history=keep,
        trackers=folder.trackers([name for name in config.tracker if name != "none"]),
        guard=assignment.guard,
        retry_after=assignment.retry_after,
        in_part=bool(assignment.strength_examples) and assignment.strength is None,
        prepared=assignment.prepared,
    )
    outcome.content = objective.content or 1.0
    return outcome


def _course(outcome: Outcome, assignment: Assignment) -> dict[str, Any]:
    """How the optimisation went, and with which settings."""
    return {
        "best_iteration": outcome.best_iteration,
        "iterations": outcome.history[-1]["iteration"],
        "stopped": outcome.stopped,
        "content": outcome.content,
        "held": assignment.misfit.name if assignment.misfit else "structure distance",
        "validation_examples": len(assignment.sets.validation),
        "settings": asdict(assignment.config.loop_settings()),
    }


def _measured(render: Renderer, assignment: Assignment, folder: RunFolder) -> dict[str, Any]:
    """Draw the validation and held-out examples before and after, and score and save them."""
    variable, metric, sets = assignment.variable, assignment.metric, assignment.sets
    with variable.disabled():
        views = {"before": render.look(sets.held_out)}
        views |= {name: render.look(examples) for name, examples in assignment.controls.items()}
        seen_before = render.look(sets.validation)
    views["after"] = render.look(sets.held_out, variable)
    seen_after = render.look(sets.validation, variable)
    prompts = [example.prompt for example in sets.validation]
    return {
        "metric": {
            "name": metric.name,
            "sign": metric.sign,
            "before": render.score(metric, seen_before, prompts).mean().item(),
            "after": render.score(metric, seen_after, prompts).mean().item(),
        },
        "held_out": evaluate(metric, sets.held_out, views, assignment.recognise, render.score),
        "pictures": save_pictures(folder, sets.held_out, views),
    }


def _gradient(
    render: Renderer, assignment: Assignment, history: Sequence[Record]
) -> dict[str, Any]:
    """The gradient method, and how far an approximate one was from exact.

    A few-VJP method estimates its own relative error; `estimate` is the median over iterations.
    """
    method, gradient = assignment.config.gradient, resolve_gradient(assignment.config.gradient)
    begun, what = tried_again(history)
    exact, some = is_exact(gradient), assignment.sets.training[:3]
    found = {
        "method": method,
        "class": repr(gradient),
        "exact": exact,
        "second_try": {"after": begun, "using": what} if what else None,
        "error": []
        if exact
        else gradient_error(render, assignment.variable, assignment.metric, some),
    }
    key = "gradient_error_estimate"
    estimates = [record[key] for record in history if key in record]
    return found | ({"estimate": statistics.median(estimates)} if estimates else {})


def save_pictures(
    folder: RunFolder, examples: Sequence[Example], views: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Write every view of every example to `images/`.

    Returns:
        A row for each example: its prompt and seed, and the path of each view's picture.

    """
    rows: list[dict[str, Any]] = [{"prompt": e.prompt, "seed": e.seed} for e in examples]
    for view, images in views.items():
        paths: list[Path] = folder.write_images(
            [f"held_out_{i:02d}_{view}" for i in range(len(examples))], images
        )
        for row, path in zip(rows, paths, strict=True):
            row[view] = str(path.relative_to(folder.path))
    return rows
