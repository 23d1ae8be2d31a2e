"""Differentiable metrics: pictures or videos in [0, 1] -> `[B]`, lower is better.

A new metric is a file here and a line in `METRICS`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adjointdpm.errors import InvalidTypeError, MetricError
from adjointdpm.metrics.aesthetic import Aesthetic
from adjointdpm.metrics.base import (
    FunctionMetric,
    Metric,
    check_samples,
    check_scores,
    probe,
    score,
)
from adjointdpm.metrics.classifier import Classifier
from adjointdpm.metrics.clip_score import ClipScore
from adjointdpm.metrics.color import MOODS, ColorStatistics
from adjointdpm.metrics.effect_pair import EffectPair
from adjointdpm.metrics.gram_style import GramStyle
from adjointdpm.metrics.hps import HPS
from adjointdpm.metrics.imagereward import ImageReward
from adjointdpm.metrics.on_device import OnDevice, check_place, placed_elsewhere
from adjointdpm.metrics.pickscore import PickScore
from adjointdpm.metrics.picture_distance import Reference
from adjointdpm.metrics.reward import Reward
from adjointdpm.metrics.safety_filter import SafetyFilter
from adjointdpm.metrics.structure import Structure, structure_distance
from adjointdpm.metrics.text_similarity import TextSimilarity
from adjointdpm.metrics.weighted_sum import WeightedSum
from adjointdpm.support.argument_types import explain_types
from adjointdpm.support.named_options import build_named
from adjointdpm.support.user_code import file_and_function, load_function, user_code

METRICS: dict[str, Callable[..., Metric]] = {
    "color": ColorStatistics,
    "gram": GramStyle,
    "classifier": Classifier,
    "safety": SafetyFilter,
    "reference": Reference,
    "pair": EffectPair,
    "similarity": TextSimilarity,
    "pickscore": PickScore,
    "hps": HPS,
    "imagereward": ImageReward,
    "aesthetic": Aesthetic,
    "clip": ClipScore,
}


def resolve(metric: str | Metric | Callable[..., Any]) -> Metric:
    """Make a metric of what the user gives: a metric, a function, or a text that names one.

    Args:
        metric: a `Metric`; a function samples -> `[B]` or (samples, prompts) -> `[B]`; `NAME` or
            `NAME:key=value,…` of `METRICS`, with quotes around a value that holds a comma; or
            `file.py:function`, the user's own.

    Raises:
        UnknownNameError: no metric has that name; the message lists those there are.
        InvalidInputError: options that the metric does not take, or values of another kind.
        MetricError: the file is missing, fails when run, or has no such function.

    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return _from_function(metric, getattr(metric, "__name__", type(metric).__name__))
    if not isinstance(metric, str):
        raise InvalidTypeError(
            f"metric={metric!r} must be a Metric, a function, or text such as color:mood=dusk"
        )
    if metric.partition(":")[0] not in METRICS and (named := file_and_function(metric)):
        return _from_file(*named)
    return build_named("metric", metric, METRICS, ", or file.py:function")


def resolve_weighted(
    specs: Sequence[str | Metric | Callable[..., Any]], weights: Sequence[float] | None = None
) -> Metric:
    """Σ weight · metric, each as `resolve` takes it; a single metric of weight 1 stays itself.

    Tasks divide each metric of a sum by its spread over untouched pictures, see `WeightedSum`.

    Args:
        specs: the metrics.
        weights: as many numbers; None weighs each metric by 1.

    Raises:
        InvalidInputError: no metrics, another number of weights, or a weight that is not finite.
        UnknownNameError, MetricError: see `resolve`.

    """
    found = [resolve(spec) for spec in specs]
    if len(found) == 1 and (weights is None or list(weights) == [1]):
        return found[0]
    return WeightedSum(found, [1.0] * len(found) if weights is None else list(weights))


def _from_file(path: Path, function: str) -> Metric:
    found = load_function(path, function, "metric", MetricError)
    return _from_function(found, f"{path.name}:{function}")


def _from_function(function: Callable[..., Any], label: str) -> Metric:
    """A metric, a function as a metric, or either of a class without arguments."""
    if isinstance(function, type):
        with user_code(f"metric {label} is a class, and {label}()", MetricError):
            function = function()
        if not callable(function):
            raise MetricError(
                f"metric {label} is a class whose objects cannot be called; give it a method "
                f"__call__(self, images)"
            )
    return function if isinstance(function, Metric) else FunctionMetric(function, label)


__all__ = [
    "HPS",
    "METRICS",
    "MOODS",
    "Aesthetic",
    "Classifier",
    "ClipScore",
    "ColorStatistics",
    "EffectPair",
    "FunctionMetric",
    "GramStyle",
    "ImageReward",
    "Metric",
    "OnDevice",
    "PickScore",
    "Reference",
    "Reward",
    "SafetyFilter",
    "Structure",
    "TextSimilarity",
    "WeightedSum",
    "check_place",
    "check_samples",
    "check_scores",
    "placed_elsewhere",
    "probe",
    "resolve",
    "resolve_weighted",
    "score",
    "structure_distance",
]

explain_types(globals(), __all__, check_objects=True)
