"""A pipeline's own arguments as users write them: NAME=VALUE, typed by the pipeline's signature."""

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from PIL import Image

from adjointdpm.errors import InvalidInputError
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters, check_arguments
from adjointdpm.support.picture_files import open_picture
from adjointdpm.support.yaml_values import read_value

# What a task says itself, and how.
SAID_ELSEWHERE = {
    "prompt": "prompts",
    "class_labels": "prompts, by name or number",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance_scale",
    "generator": "seed",
    "latents": "seed",
    "batch_size": "the number of prompts or pictures",
    "num_images_per_prompt": "the number of prompts or pictures",
    "num_videos_per_prompt": "the number of prompts or pictures",
}
_PICTURES = (Image.Image, torch.Tensor, np.ndarray)


class PictureFile:
    """A picture that was named by its file.

    Args:
        path: of the file.

    Attributes:
        picture: what the file holds, in RGB.

    Raises:
        InvalidInputError: see `read_picture`.

    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.picture = open_picture(path)

    def as_code(self) -> tuple[str, str]:
        """A line that imports, and an expression that opens the picture as it was opened here.

        Pillow alone reads most pictures so, but not those of 16 bits, nor those that are
        transparent or must be turned upright.
        """
        with Image.open(self.path) as opened:
            alone = opened.convert("RGB")
        if alone.size == self.picture.size and alone.tobytes() == self.picture.tobytes():
            return "from PIL import Image", f'Image.open({self.path!r}).convert("RGB")'
        module, function = open_picture.__module__, open_picture.__name__
        return f"from {module} import {function}", f"{function}({self.path!r})"


def written_arguments(given: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name; values that were written as text are still text.

    Raises:
        InvalidInputError: a text that is not NAME=VALUE, or a name that is there twice.

    """
    if isinstance(given, Mapping):
        return dict(given)
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = str(text).partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise InvalidInputError(
                f"pipeline_arg {text!r} must be NAME=VALUE, such as height=512: an argument of the "
                "pipeline's own call"
            )
        if name in found:
            raise InvalidInputError(f"pipeline_arg {name} is given twice")
        found[name] = Text(value)
    return found


class Text(str):
    """A value as it was written, whose type the pipeline's signature decides."""


def call_arguments(pipe: Any, given: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the pipeline's call: of the types that its signature asks for.

    Args:
        pipe: a diffusers pipeline.
        given: texts NAME=VALUE, the value as YAML has it, or values by name. Where the pipeline
            takes a picture, the text is the path of a file.

    Returns:
        Values by name; pictures that were read from files are `PictureFile`s, see `loaded`.

    Raises:
        InvalidInputError: an unknown name, one that the task itself sets, or a value of another
            type.

    """
    arguments = written_arguments(given)
    names = call_parameters(pipe)
    for name in arguments:
        if name in SAID_ELSEWHERE and name in names:
            raise InvalidInputError(
                f"pipeline_arg {name} is set by the task itself: say it by {SAID_ELSEWHERE[name]}"
            )
    check_arguments(pipe, arguments, names)
    hints = _hints(pipe)
    return {
        name: _fitted(name, value, hints.get(name), names.get(name))
        for name, value in arguments.items()
    }


def loaded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with pictures in place of their files."""
    return {
        name: value.picture if isinstance(value, PictureFile) else value
        for name, value in arguments.items()
    }


def plain_arguments(given: Sequence[str] | Mapping[str, Any]) -> list[str] | dict[str, Any]:
    """What was given, as a YAML or JSON file can hold it; objects as Python shows them."""
    if not isinstance(given, Mapping):
        return [str(text) for text in given]
    return {name: value if _is_plain(value) else _shown(value) for name, value in given.items()}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | bool | int | float)


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None) or getattr(value, "size", None)
    return f"<{type(value).__name__} {tuple(shape) if isinstance(shape, tuple) else ''}>"


def _fitted(name: str, value: Any, hint: Any, parameter: inspect.Parameter | None) -> Any:
    """The value in the type that the argument has."""
    accepted = _accepted(hint, parameter)
    if isinstance(value, str) and not {str, Any} & accepted and accepted & {*_PICTURES}:
        return PictureFile(str(value))
    if not isinstance(value, Text):
        return value
    try:
        read = read_value(value)
    except ValueError:
        read = str(value)
    if isinstance(read, str) and float in accepted:  # YAML takes 1e-3 for a text
        with suppress(ValueError):
            read = float(read)
    kind = type(read)
    if read is None or Any in accepted or (kind in accepted and kind is not str):
        return read
    if kind is int and float in accepted:
        return float(read)
    if isinstance(read, list) and tuple in accepted:
        return tuple(read)
    if str in accepted:
        return str(value)
    shown = " or ".join(sorted(kind.__name__ for kind in accepted if isinstance(kind, type)))
    raise InvalidInputError(f"pipeline_arg {name}={value} must be {shown}")


def _accepted(hint: Any, parameter: inspect.Parameter | None) -> set[Any]:
    """The classes that an annotation allows; `Any` among them if it says nothing."""
    if hint is None:
        default = parameter.default if parameter is not None else None
        known = isinstance(default, bool | int | float | str | list | tuple)
        return {type(default)} if known else {Any}
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_accepted(part, None) for part in typing.get_args(hint) if part))
    if origin is typing.Literal:
        return {type(value) for value in typing.get_args(hint)}
    if origin is not None:
        return {origin}
    if hint is types.NoneType:
        return set()
    return {hint if isinstance(hint, type) else Any}


def _hints(pipe: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(type(pipe).__call__))
    except (NameError, TypeError):  # annotations that cannot be evaluated
        return {}
