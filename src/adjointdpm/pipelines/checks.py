"""Checks of what a user passes to a model, before anything is computed."""

import math
from collections.abc import Collection, Mapping, Sequence
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
from adjointdpm.pipelines.examples import Encoded
from adjointdpm.support.checks import check_int
from adjointdpm.support.memory import check_room

# The sizes of a tensor's dimensions: a number where it is fixed, a name where it is free, for
# example ("B", "L", 768).
Layout = tuple[int | str, ...]


def check_prompts(prompt: object, name: str = "prompt") -> str | list[str]:
    """Return the prompts as a string or a list of strings.

    Raises:
        PromptError: neither, or an empty list.

    """
    if isinstance(prompt, str):
        check_encodable(prompt, name)
        return prompt
    if not isinstance(prompt, Sequence) or not all(isinstance(text, str) for text in prompt):
        raise PromptError(
            f"{name}={prompt!r} must be a string, or a list with one string for each sample"
        )
    if len(prompt) == 0:
        raise PromptError(
            f"{name} is an empty list; pass a string, or a list with one string for each sample"
        )
    for text in prompt:
        check_encodable(text, name)
    return list(prompt)


def check_encodable(text: str, name: str) -> None:
    """Raise PromptError if a text holds half of a surrogate pair, which no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"{name}={text!a} holds half of a surrogate pair at position {error.start}, which "
            f"is no text; leave it out"
        ) from error


def check_either(
    name: str,
    prompt: object,
    encoded_names: Collection[str],
    encoded: Encoded,
    required: bool = True,
) -> None:
    """Check that a prompt was given as text or encoded, but not both.

    Args:
        name: the argument that takes the text.
        prompt: its value.
        encoded_names: the arguments that take the encoded prompt.
        encoded: those of them that were given.
        required: whether one of the two must be given.

    Raises:
        PromptError: both, or none where one is required, or only some of the encoded tensors.

    """
    both = " and ".join(encoded_names)
    if prompt is not None and encoded:
        raise PromptError(f"pass either {name} or {both}, not both")
    if required and prompt is None and not encoded:
        raise PromptError(f"pass {name}, or {both}")
    if encoded and len(encoded) < len(encoded_names):
        raise PromptError(f"pass {both} together, as encode() returns them")


def check_encoded(
    given: Mapping[str, Tensor | None], layouts: Mapping[str, Layout], device: torch.device
) -> tuple[Encoded, Encoded]:
    """Sort what `generate` was given into encoded prompts and encoded negative prompts.

    Args:
        given: by argument name; None counts as not given.
        layouts: of the encoded prompts, by name. The arguments for negative prompts are called the
            same with `negative_` in front, and have the shape of the prompts but for the batch.
        device: where the tensors must be.

    Returns:
        The encoded prompts and the encoded negative prompts, both by the names in `layouts`.

    Raises:
        InvalidTypeError: an argument with another name, or no floating-point tensor.
        ShapeError, DeviceError, InvalidInputError: see `check_tensor`.

    """
    known = [*layouts, *(f"negative_{name}" for name in layouts)]
    for name in given:
        if name not in known:
            raise InvalidTypeError(
                f"generate() has no argument {name!r}; this pipeline's encoded prompts are "
                f"{', '.join(known)}"
            )
    positives: Encoded = {}
    negatives: Encoded = {}
    for name, layout in layouts.items():
        tensor, opposite = given.get(name), given.get(f"negative_{name}")
        if tensor is not None:
            check_tensor(tensor, name, layout, device)
            positives[name] = tensor
            layout = ("B", *tensor.shape[1:])
        if opposite is not None:
            check_tensor(opposite, f"negative_{name}", layout, device)
            negatives[name] = opposite
    return positives, negatives


def batch_size(sizes: Mapping[str, int | None]) -> int:
    """Return the batch size on which all arguments agree; None fits any batch.

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


def check_tensor(tensor: object, name: str, layout: Layout, device: torch.device) -> None:
    """Check the layout of a tensor, and that it is on `device` and finite.

    Raises:
        InvalidTypeError, ShapeError: see `check_layout`.
        DeviceError: it is on another device.
        InvalidInputError: it holds NaN or infinite values.

    """
    check_layout(tensor, name, layout)
    assert isinstance(tensor, Tensor)
    if tensor.device != device:
        raise DeviceError(
            f"{name} is on {tensor.device} and the pipeline on {device}; move one of them"
        )
    if not bool(torch.isfinite(tensor.detach()).all()):
        raise InvalidInputError(f"{name} holds NaN or infinite values")


def check_layout(tensor: object, name: str, layout: Layout) -> None:
    """Check that a tensor is floating point, not empty, and laid out as told.

    Raises:
        InvalidTypeError: no tensor, of another dtype, or sparse.
        ShapeError: another shape.

    """
    shown = f"[{', '.join(map(str, layout))}]"
    if not isinstance(tensor, Tensor):
        raise InvalidTypeError(f"{name} must be a tensor {shown}, not {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise InvalidTypeError(f"{name} has dtype {tensor.dtype}; it must be floating point")
    if tensor.layout != torch.strided:
        raise InvalidTypeError(f"{name} has layout {tensor.layout}; pass {name}.to_dense()")
    wrong = tensor.ndim != len(layout) or any(
        isinstance(size, int) and size != n for size, n in zip(layout, tensor.shape, strict=True)
    )
    if wrong or tensor.numel() == 0:
        raise ShapeError(f"{name} has shape {tuple(tensor.shape)}; this model takes {shown}")


def check_guidance(scale: object) -> float:
    """Return the guidance scale as a float.

    Raises:
        InvalidTypeError, InvalidInputError: not a number, or not a finite one.

    """
    if isinstance(scale, bool) or not isinstance(scale, Real):
        raise InvalidTypeError(f"guidance_scale={scale!r} must be a number")
    if not math.isfinite(scale):
        raise InvalidInputError(f"guidance_scale={scale!r} must be finite")
    return float(scale)


_LARGEST = 2**63 - 1
# At the very least: a network has more channels than the noise, and a decoder makes 48 numbers of
# each of a latent.
_COPIES = 8


def check_count(value: object, name: str, least: int) -> int:
    """Return `value` if it is an int of at least `least`.

    Raises:
        InvalidTypeError, InvalidInputError: not an int, or too small.

    """
    check_int(name, value, least, most=_LARGEST, why="numbers of pictures have 64 bits")
    assert isinstance(value, int)
    return value


def check_batch_fits(shape: Sequence[int], device: torch.device) -> None:
    """Check that there can be memory for drawing samples from noise of a shape.

    Raises:
        InvalidInputError: there is not.

    """
    what = f"drawing a batch of {shape[0]} from noise of shape {tuple(shape[1:])}"
    remedy = "use a smaller batch, or smaller samples"
    check_room(shape, what, remedy, device=device, copies=_COPIES)


def check_seeds(seeds: object, generator: object) -> list[int]:
    """Return the seeds as a list, one non-negative int a sample.

    Raises:
        InvalidTypeError, InvalidInputError: not a sequence of such ints, or there is a generator
            too.

    """
    if generator is not None:
        raise InvalidInputError(
            "pass either generator or seeds, not both: each says what a stochastic scheduler draws"
        )
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence):
        raise InvalidTypeError(f"seeds={seeds!r} must be a list with one int for each sample")
    return [check_count(seed, f"seeds[{i}]", least=0) for i, seed in enumerate(seeds)]
