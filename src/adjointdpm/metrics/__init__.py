"""Differentiable metrics, `[B, 3, H, W]` in [0, 1] -> `[B]`, lower is better; a new one is a file here and a line in `METRICS`."""

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from adjointdpm.errors import InvalidInputError, InvalidTypeError, MetricError, UnknownNameError
from adjointdpm.metrics.base import FunctionMetric, Metric, check_scores, probe
from adjointdpm.metrics.color import MOODS, ColorStatistics
from adjointdpm.metrics.structure import Structure, structure_distance
from adjointdpm.metrics.weighted import WeightedSum

METRICS: dict[str, Callable[..., Metric]] = {
    "color": ColorStatistics,
}


def resolve(metric: str | Metric | Callable[..., Any]) -> Metric:
    """The metric itself, a function as a metric, or what the text names.

    Args:
        metric: a `Metric`; a function images -> `[B]`; `NAME` or `NAME:key=value,…` of `METRICS`; or `file.py:function`, the user's own.

    Raises:
        UnknownNameError: no metric has that name; the message lists those there are.
        InvalidInputError: options that the metric does not take.
        MetricError: the file is missing, fails when run, or has no such function.

    """
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return FunctionMetric(metric, getattr(metric, "__name__", type(metric).__name__))
    if not isinstance(metric, str):
        raise InvalidTypeError(f"metric={metric!r} must be a Metric, a function, or text such as color:mood=dusk")
    name, _, options = metric.partition(":")
    if name.endswith(".py"):
        return _from_file(Path(name), options)
    if name not in METRICS:
        raise UnknownNameError(f"metric {name!r} is unknown; choose one of {', '.join(METRICS)}, or file.py:function")
    build, given = METRICS[name], _parse_options(metric, options)
    known = inspect.signature(build).parameters
    for option in given:
        if option not in known:
            raise InvalidInputError(f"metric {metric!r}: {name} has no option {option!r}; it takes {', '.join(known)}")
    return build(**given)


def _parse_options(metric: str, options: str) -> dict[str, Any]:
    parsed = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals or not value:
            raise InvalidInputError(f"metric {metric!r}: {option!r} must be key=value")
        parsed[key.strip()] = yaml.safe_load(value)
    return parsed


def _from_file(path: Path, function: str) -> Metric:
    if not path.is_file():
        raise MetricError(f"metric file {path} does not exist")
    if not function:
        raise MetricError(f"metric {path}: name the function too, as in {path}:score")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise MetricError(f"metric file {path} failed: {type(error).__name__}: {error}") from error
    if not callable(vars(module).get(function)):
        names = [n for n, value in vars(module).items() if inspect.isfunction(value) and value.__module__ == path.stem]
        raise MetricError(f"metric file {path} has no function {function!r}; it has {', '.join(names) or 'none'}")
    found = vars(module)[function]
    return found if isinstance(found, Metric) else FunctionMetric(found, f"{path.name}:{function}")


__all__ = [
    "METRICS",
    "MOODS",
    "ColorStatistics",
    "FunctionMetric",
    "Metric",
    "Structure",
    "WeightedSum",
    "check_scores",
    "probe",
    "resolve",
    "structure_distance",
]
