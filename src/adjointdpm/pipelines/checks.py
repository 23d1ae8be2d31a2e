"""Checks of what a user passes to a model, before anything is computed."""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from adjointdpm.errors import (
    DeviceError,
    InvalidInputError,
    InvalidTypeError,
    PromptError,
    ShapeError,
)


def check_prompts(prompt: object, name: str = "prompt") -> str | list[str]:
    """`prompt` as a string or a list of strings.

    Raises:
        PromptError: neither, or an empty list.

    """
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, Sequence) or not all(isinstance(text, str) for text in prompt):
        raise PromptError(
            f"{name}={prompt!r} must be a string, or a list with one string for each sample"
        )
    if len(prompt) == 0:
        raise PromptError(
            f"{name} is an empty list; pass a string, or a list with one string for each sample"
        )
    return list(prompt)


def check_either(
    prompt: object, embeds: object, name: str = "prompt", required: bool = True
) -> None:
    """Raise PromptError unless one of a prompt and its embeddings was given, or at most one if not
    `required`.
    """
    if prompt is not None and embeds is not None:
        raise PromptError(f"pass either {name} or {name}_embeds, not both")
    if required and prompt is None and embeds is None:
        raise PromptError(f"pass {name}, or {name}_embeds")


def batch_size(sizes: dict[str, int | None]) -> int:
    """The batch size on which all arguments agree; None stands for one that fits any batch.

    Raises:
        ShapeError: they disagree.

    """
    given = {name: size for name, size in sizes.items() if size is not None}
    if len(set(given.values())) > 1:
        listed = ", ".join(f"{name} has {size}" for name, size in given.items())
        raise ShapeError(
            f"the batch sizes disagree: {listed}; a single string serves a batch of any size"
        )
    return next(iter(given.values()), 1)


def check_tensor(
    tensor: Tensor, name: str, layout: tuple[str, ...], sizes: dict[str, int], device: torch.device
) -> None:
    """Raise unless `tensor` is as `check_layout` wants it, on `device` and finite."""
    check_layout(tensor, name, layout, sizes)
    if tensor.device != device:
        raise DeviceError(
            f"{name} is on {tensor.device} and the pipeline on {device}; move one of them"
        )
    if not bool(torch.isfinite(tensor.detach()).all()):
        raise InvalidInputError(f"{name} holds NaN or infinite values")


def check_layout(tensor: Tensor, name: str, layout: tuple[str, ...], sizes: dict[str, int]) -> None:
    """Raise unless `tensor` is floating point and laid out as told, for example ("B", "L", "D")
    with {"D": 768}.
    """
    shown = f"[{', '.join(str(sizes.get(axis, axis)) for axis in layout)}]"
    if not isinstance(tensor, Tensor):
        raise InvalidTypeError(f"{name} must be a tensor {shown}, not {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise InvalidTypeError(f"{name} has dtype {tensor.dtype}; it must be floating point")
    wrong = tensor.ndim != len(layout) or any(
        sizes.get(axis, n) != n for axis, n in zip(layout, tensor.shape, strict=True)
    )
    if wrong or tensor.numel() == 0:
        raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; this model takes {shown}")


def check_guidance(scale: object) -> float:
    """`scale` as a float.

    Raises:
        InvalidTypeError, InvalidInputError: not a number, or not a finite one.

    """
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise InvalidTypeError(f"guidance_scale={scale!r} must be a number")
    if not math.isfinite(scale):
        raise InvalidInputError(f"guidance_scale={scale!r} must be finite")
    return float(scale)


def check_count(value: object, name: str, least: int) -> int:
    """`value`, an int of at least `least`.

    Raises:
        InvalidTypeError, InvalidInputError: not an int, or too small.

    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(f"{name}={value!r} must be an int")
    if value < least:
        raise InvalidInputError(f"{name}={value} must be at least {least}")
    return value


def check_seeds(seeds: object, generator: object) -> list[int]:
    """`seeds` as a list of non-negative ints, which take the place of a generator.

    Raises:
        InvalidTypeError, InvalidInputError: not a sequence of such ints, or a generator besides.

    """
    if generator is not None:
        raise InvalidInputError(
            "pass either generator or seeds, not both: each says what a stochastic scheduler draws"
        )
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence):
        raise InvalidTypeError(f"seeds={seeds!r} must be a list with one int for each sample")
    return [check_count(seed, f"seeds[{i}]", least=0) for i, seed in enumerate(seeds)]
