"""What all tasks that learn do alike: run the loop, draw held-out pictures before and after,
measure, and fill the run folder.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from adjointdpm import metrics
from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.metrics import Metric
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.gradient_check import gradient_error, is_exact
from adjointdpm.optimization.loop import Record, optimize
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.provenance import package_versions, peak_memory_bytes
from adjointdpm.support.distributed import Processes
from adjointdpm.tasks.config import Sets, TaskConfig
from adjointdpm.tasks.evaluation import evaluate
from adjointdpm.variables import Example, Variable
from adjointdpm.variables.freezing import frozen


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


def renderer(model: Any, config: TaskConfig) -> Renderer:
    """The renderer that a configuration asks for."""
    return Renderer(
        model,
        config.steps,
        config.guidance_scale,
        config.sampler,
        resolve_gradient(config.gradient),
    )


def picture_size(model: Any) -> tuple[int, int]:
    """Height and width in pixels of the pictures that the model draws by default."""
    _, height, width = model.latent_shape
    return height * model.pipe.vae_scale_factor, width * model.pipe.vae_scale_factor


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
        model: what `adjointdpm.load` returns; as it was, afterwards.
        assignment: what to learn, and from what.
        folder: where to; see `RunFolder`.
        resume: go on from the folder's checkpoint.
        on_record: called after every iteration.
        render: draws in place of the renderer that the configuration asks for.

    Returns:
        What `result.json` holds. Of several processes only the main one measures; the others return
        what they have.

    Raises:
        MetricError, PromptError, CheckpointError, OutputError, Interrupted: see `optimize`, the
            variable and the metric.

    """
    started = time.perf_counter()
    config, variable, metric = assignment.config, assignment.variable, assignment.metric
    training, validation, held_out = assignment.sets
    render, gradient = render or renderer(model, config), resolve_gradient(config.gradient)
    metrics.probe(metric, *picture_size(model), device=model.device, dtype=model.dtype)

    def keep(history: list[Record]) -> None:
        folder.write_history(history)
        on_record(history[-1])

    with render.counted() as counter, variable, frozen(model.pipe, variable.tensors().values()):
        variable.check([*training, *validation, *held_out])
        outcome = optimize(
            render,
            variable,
            metric,
            training,
            validation,
            config.optimisation,
            checkpoints=folder.checkpoints,
            history=folder.read_history() if resume else (),
            resume=resume,
            on_history=keep,
            trackers=folder.trackers(config.trackers),
        )
        processes = Processes()
        started -= outcome.former_seconds  # what earlier sessions took counts as well
        optimised, own = time.perf_counter() - started, counter.calls
        calls = outcome.former_calls + sum(processes.gather([own]))
        result: dict[str, Any] = {"task": assignment.task, "processes": processes.count}
        if not processes.is_main:
            return result
        artefact = variable.save(folder.path)
        with variable.disabled():
            views = {"before": render.look(held_out)}
            views |= {name: render.look(examples) for name, examples in assignment.controls.items()}
            seen_before = render.look(validation)
        views["after"] = render.look(held_out, variable)
        seen_after = render.look(validation, variable)
        evaluated = counter.calls - own
        errors = (
            [] if is_exact(gradient) else gradient_error(render, variable, metric, training[:3])
        )
        checked = counter.calls - own - evaluated
    result |= {
        "metric": {
            "name": metric.name,
            "before": render.score(metric, seen_before).mean().item(),
            "after": render.score(metric, seen_after).mean().item(),
        },
        "held_out": evaluate(metric, held_out, views, assignment.recognise, render.score),
        "pictures": save_pictures(folder, held_out, views),
        "artefact": str(artefact.relative_to(folder.path)),
        "optimisation": {
            "best_iteration": outcome.best_iteration,
            "iterations": outcome.history[-1]["iteration"],
            "stopped": outcome.stopped,
            "validation_examples": len(validation),
        },
        "gradient": {
            "method": config.gradient,
            "class": repr(gradient),
            "exact": is_exact(gradient),
            "error": errors,
        }
        | _estimate(outcome.history),
        "seconds": time.perf_counter() - started,
        "seconds_optimising": optimised,
        "resumed": resume,
        "peak_memory_bytes": peak_memory_bytes(),
        "network_calls": calls + evaluated + checked,
        "network_calls_by_purpose": {
            "optimising": calls,
            "evaluating": evaluated,
            "checking the gradient": checked,
        },
        "seed": config.seed,
        "command": assignment.command,
        "versions": package_versions(),
        "config": asdict(config),
        "story": asdict(assignment.story),
    }
    folder.write_result(result)
    return result


def _estimate(history: Sequence[Record]) -> dict[str, float]:
    """The relative error that a few-VJP method itself estimated, the median over iterations;
    nothing for others.
    """
    found = [
        record["gradient_error_estimate"]
        for record in history
        if "gradient_error_estimate" in record
    ]
    return {"estimate": statistics.median(found)} if found else {}


def save_pictures(
    folder: RunFolder, examples: Sequence[Example], views: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Write every view of every example to `images/`; returns a row for each example with the paths
    by view.
    """
    rows: list[dict[str, Any]] = [{"prompt": e.prompt, "seed": e.seed} for e in examples]
    for view, images in views.items():
        paths: list[Path] = folder.write_images(
            [f"held_out_{i:02d}_{view}" for i in range(len(examples))], images
        )
        for row, path in zip(rows, paths, strict=True):
            row[view] = str(path.relative_to(folder.path))
    return rows
