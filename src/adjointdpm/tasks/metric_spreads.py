"""A metric's spread over untouched pictures: what is a large difference of it.

Several metrics count alike: each is divided by its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from adjointdpm.metrics import Metric, WeightedSum, placed_elsewhere
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.support.distributed import Processes
from adjointdpm.variables import Example

if TYPE_CHECKING:
    from adjointdpm.tasks.learning import Assignment

PICTURES = 8  # over which the spread is taken
_STEPS = 10  # sampler steps at most, where only the size of a spread is asked for
_DIGITS = 3  # so that a resumed run, perhaps on another machine, has the same spreads


def on_reward_device(assignment: "Assignment") -> "Assignment":
    """The assignment with its metrics, the guard's too, where the configuration wants them.

    Raises:
        UnknownNameError: see `placed_elsewhere`.

    """
    there, guard = (assignment.config.reward_device, assignment.config.reward_dtype), None
    if assignment.guard is not None:
        guard = replace(assignment.guard, metric=placed_elsewhere(assignment.guard.metric, *there))
    metric = placed_elsewhere(assignment.metric, *there)
    return replace(assignment, metric=metric, guard=guard)


def with_spreads(render: Renderer, assignment: "Assignment") -> "Assignment":
    """The assignment with the metrics of a sum divided by their spreads, and its story saying so.

    The spread is the standard deviation over pictures that the untouched model draws. It depends on
    the examples alone: a run that is resumed finds the same. A single metric stays as it is.

    Args:
        render: draws the pictures.
        assignment: its variable must have been entered.

    Warns:
        AdjointDPMWarning: a metric is the same for all these pictures, see `WeightedSum`.

    """
    metric = assignment.metric
    if not isinstance(metric, WeightedSum) or len(metric.metrics) < 2 or metric.spreads is not None:
        return assignment

    def measure() -> list[float]:
        examples = _examples(assignment.sets.training)
        prompts = [example.prompt for example in examples]
        with assignment.variable.disabled():
            pictures = render.look(examples)
        scores = [render.score(part, pictures, prompts) for part in metric.metrics]
        spreads = metric.normalised(scores).spreads or ()
        return [float(f"{spread:.{_DIGITS}g}") for spread in spreads]

    spreads = Processes().from_main(measure)
    named = ", ".join(
        f"`{part.name}` {spread:g}" for part, spread in zip(metric.metrics, spreads, strict=True)
    )
    text = (
        f"There are several metrics. Each is divided by its spread, the standard deviation over "
        f"{PICTURES} pictures of the untouched model ({named}), and then multiplied by its weight, "
        f"so that equal weights count alike whatever the metrics' scales."
    )
    story = replace(assignment.story, how=[*assignment.story.how, text])
    return replace(assignment, metric=replace(metric, spreads=spreads), story=story)


def spread_of(render: Renderer, metric: Metric, training: Sequence[Example]) -> float:
    """The standard deviation of a metric over rough pictures that the untouched model draws.

    Args:
        render: draws the pictures.
        metric: scores them.
        training: examples to draw.

    """

    def measure() -> float:
        examples = _examples(training)
        prompts = [example.prompt for example in examples]
        rough = replace(render, steps=min(render.steps, _STEPS))
        scores = rough.score(metric, rough.look(examples), prompts)
        return scores.double().std(correction=0).item()

    return float(f"{Processes().from_main(measure):.{_DIGITS}g}")


def _examples(training: Sequence[Example]) -> list[Example]:
    """The first training examples; if they are few, also their prompts with the seeds after."""
    found = list(dict.fromkeys(training))[:PICTURES]
    prompts, seed = [example.prompt for example in found], max(e.seed for e in training)
    for i in range(PICTURES - len(found)):
        found.append(Example(prompts[i % len(prompts)], seed + 1 + i))
    return found
