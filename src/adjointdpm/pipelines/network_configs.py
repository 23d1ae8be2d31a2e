"""Configs of a pipeline's networks: values that no network can have, found before any is built."""

import importlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from adjointdpm.errors import InvalidInputError, ModelError
from adjointdpm.support.files import read_bounded
from adjointdpm.support.memory import check_room

CONFIG = "config.json"
_LARGEST_FILE = 10_000_000  # bytes of a config
_LARGEST = 1e38  # about what float32 holds
_LONGEST = 2**31  # of a tensor's dimension
_ENDLESS = 2**63  # bytes of what torch cannot count
_LAYERS_MOST = 1000  # fewer are built soon, and do not fit their tensors
_LAYERS = re.compile(r"layers|depth|blocks|num_single|num_double")
_NUMBERS = {"int", "float"}
_WORD = re.compile(r"[A-Za-z_]\w*")


def check_configs(source: str, parts: Mapping[str, tuple[str, str]]) -> None:
    """Check what the configs of a folder say of networks, as far as it can be told from them.

    Numbers must be finite. A size must not be negative, text or broken where the class takes whole
    numbers. A network must not have a thousand layers more than tensors, and must fit into memory.

    Args:
        source: the folder of a pipeline.
        parts: library and class of each network, by name.

    Raises:
        ModelError: a value is impossible; the message names file, field and value.

    """
    for part, (library, name) in parts.items():
        file = Path(source) / part / CONFIG
        cls = getattr(importlib.import_module(library), name)
        if file.is_file():
            _check(file, cls)


def _check(file: Path, cls: Any) -> None:
    try:
        config = json.loads(read_bounded(file, _LARGEST_FILE))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{file} is no mapping of names to values")
    for path, value in _leaves(config):
        if isinstance(value, float | int) and not abs(value) <= _LARGEST:
            raise _impossible(file, path, value, f"must be a finite number of at most {_LARGEST:g}")
    fields = _fields(cls)
    shapes = _shapes(file.parent)
    longest = max((n for shape in shapes.values() for n in shape), default=0)
    large = []
    for name, value in config.items():
        for one in value if isinstance(value, list) else [value]:
            _check_kind(file, name, one, *fields.get(name, (None, None)))
            if type(one) is int and _LAYERS.search(name) and one > max(_LAYERS_MOST, len(shapes)):
                raise _impossible(
                    file, name, value, f"is more layers than its {len(shapes)} tensors can be"
                )
            if type(one) is int and one > longest > 0 and "_id" not in name:
                large.append(name)
    if large:
        _check_memory(file, cls, config, large)


def _check_kind(file: Path, name: str, value: Any, default: Any, words: set[str] | None) -> None:
    """Check a value by what the class says of a field: its default, and the words of its type."""
    defaults = default if isinstance(default, list | tuple) else [default]
    numbers = [n for n in defaults if type(n) in (int, float)]
    kinds = (words or set()) & _NUMBERS | {type(n).__name__ for n in numbers}
    if not kinds or (words or set()) & {"str", "Any", "dict"} or isinstance(default, str):
        return
    if isinstance(value, str):
        raise _impossible(file, name, value, "must be a number")
    if "float" not in kinds and type(value) in (int, float):
        if value != int(value):
            raise _impossible(file, name, value, "must be a whole number")
        if value < 0 and all(n >= 0 for n in numbers):
            raise _impossible(file, name, value, "must not be negative")
        if value > _LONGEST and "_id" not in name:
            raise _impossible(file, name, value, f"must be at most {_LONGEST}")


def _check_memory(file: Path, cls: Any, config: Mapping[str, Any], large: list[str]) -> None:
    """Refuse a network that takes more memory than is free, before it is built."""
    try:
        with torch.device("meta"):
            network = _built(cls, dict(config))
        needed = sum(t.nbytes for t in [*network.parameters(), *network.buffers()])
    except Exception as error:  # what cannot be built at all is said when it is loaded
        if "overflow" not in str(error):
            return
        needed = _ENDLESS
    named = ", ".join(f"{name}={json.dumps(config[name])}" for name in dict.fromkeys(large))
    try:
        check_room((needed,), f"the {cls.__name__} of {file} ({named})", "correct it", itemsize=1)
    except InvalidInputError as error:
        raise ModelError(str(error)) from error


def _built(cls: Any, config: dict[str, Any]) -> nn.Module:
    if hasattr(cls, "config_class") and cls.config_class is not None:
        return cls(cls.config_class.from_dict(config))
    return cls.from_config(config)


def _fields(cls: Any) -> dict[str, tuple[Any, set[str]]]:
    """What a network's class says of each field of its config: the default, and its type's words.

    The config of a transformers model is a class of its own.
    """
    described = getattr(cls, "config_class", None) or cls
    found: dict[str, tuple[Any, set[str]]] = {}
    for name, parameter in inspect.signature(described).parameters.items():
        default = None if parameter.default is parameter.empty else parameter.default
        kind = "" if parameter.annotation is parameter.empty else parameter.annotation
        text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else kind
        found[name] = default, set(_WORD.findall(str(text)))
    return found


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in a folder's weight files, by name."""
    found: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                found[name] = tuple(file.get_slice(name).get_shape())
    return found


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values of nested mappings and lists, with where they stand."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for name, one in items:
        place = f"{path}.{name}".removeprefix(".")
        if isinstance(one, dict | list):
            yield from _leaves(one, place)
        else:
            yield place, one


def _impossible(file: Path, name: str, value: Any, rule: str) -> ModelError:
    return ModelError(f"{file}: {name} {rule}, and is {_short(json.dumps(value))}")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"
