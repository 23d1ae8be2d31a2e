"""Everything that a call could change in a pipeline, as comparable values."""

from typing import Any

from diffusers import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn


def everything(pipe: Any) -> dict[str, Any]:
    """The attributes of a pipeline, its schedulers, networks and all their parts, by path.

    Objects are told apart by identity, weights also by memory, dtype and sum.
    """
    found: dict[str, Any] = {}
    _attributes("pipe", pipe, found)
    for name, part in pipe.components.items():
        if isinstance(part, DiffusionPipeline):
            found |= {f"{name}/{key}": value for key, value in everything(part).items()}
        elif isinstance(part, nn.Module):
            for path, inner in part.named_modules():
                _attributes(f"{name}.{path}", inner, found)
        elif isinstance(part, SchedulerMixin) or hasattr(part, "config"):
            _attributes(name, part, found)
    return found


def _attributes(path: str, thing: Any, found: dict[str, Any]) -> None:
    found[path] = type(thing)
    for key, value in vars(thing).items():
        found[f"{path}.{key}"] = _value(value)


def _value(value: Any) -> Any:
    if isinstance(value, Tensor):
        numbers = value.detach().double().nan_to_num(0, 0, 0)
        return id(value), value.data_ptr(), value.dtype, value.requires_grad, float(numbers.sum())
    if isinstance(value, dict):
        return id(value), [(key, _value(item)) for key, item in value.items()]
    if isinstance(value, list):
        return id(value), [_value(item) for item in value]
    if isinstance(value, int | float | str | bool | None | tuple):
        return value
    return id(value)
