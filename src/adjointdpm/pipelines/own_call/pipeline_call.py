"""One differentiable call of any diffusers pipeline: its own code, with networks recomputed."""

import difflib
import inspect
import re
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten

from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.errors import InvalidInputError, UnsupportedError
from adjointdpm.pipelines.own_call.initial_noise import (
    PREPARE,
    NoiseSource,
    drawing_from,
    draws_noise,
)
from adjointdpm.pipelines.own_call.kept_values import kept_values
from adjointdpm.pipelines.own_call.last_tensor import LastTensor
from adjointdpm.pipelines.own_call.missing_weights import check_weights
from adjointdpm.pipelines.own_call.networks_of_a_call import NetworksOfACall
from adjointdpm.pipelines.own_call.rejected_arguments import rejected_by
from adjointdpm.pipelines.own_call.twin import twin_of

OUTPUTS = {"sample": "pt", "latent": "latent"}
# Pipelines that make no tensors; what they turn into numpy is caught before that.
NUMPY_ONLY = ("ShapEPipeline", "ShapEImg2ImgPipeline", "StableDiffusionLDM3DPipeline")


def call_pipeline(
    pipe: Any,
    arguments: Mapping[str, Any],
    noise: Tensor | None = None,
    gradient: GradientMethod | str = "exact",
    output: str = "sample",
    networks: "NetworksOfACall | None" = None,
) -> Tensor:
    """What `pipe(**arguments)` makes, before its last clamp and conversion, with its graph.

    Gradients reach the noise, every tensor among the arguments, and every weight of the pipeline
    that requires grad. The pipeline is left as it is, also if the call fails.

    Args:
        pipe: any diffusers pipeline.
        arguments: of its `__call__`, under its own names and with its own defaults.
        noise: its initial noise, in the shape that it draws itself.
        gradient: `Checkpoint`, `Backprop` or `Truncated`, or its name.
        output: "sample", or "latent" for what the pipeline returns with `output_type="latent"`.
        networks: what the networks do in this call, in place of what `gradient` says.

    Returns:
        Pictures `[B, 3, H, W]` about [0, 1], videos `[B, F, 3, H, W]`, sound `[B, C, T]`, or what
        else the pipeline makes in its own layout.

    Raises:
        InvalidInputError, InvalidTypeError: an argument that the pipeline does not take, or that
            this function sets.
        ShapeError: noise of another shape than the pipeline draws.
        UnsupportedError: the pipeline does not draw noise though some was given, makes no tensor,
            or blocks the gradient of one of its networks.
        ModelError: a network has no weights.
        NonFiniteError: the sample holds NaN or infinite values.

    """
    networks = networks or NetworksOfACall(resolve_gradient(gradient))
    names = call_parameters(pipe)
    check_arguments(pipe, arguments, names)
    if output not in OUTPUTS:
        raise InvalidInputError(f"output={output!r} is unknown; choose one of {', '.join(OUTPUTS)}")
    given = _prepared(pipe, arguments, names, output)
    source = NoiseSource(noise, everywhere=not draws_in_prepare(pipe))
    check_weights(pipe)
    twin = twin_of(pipe, networks.wrap)
    networks.follow(getattr(twin, "scheduler", None))
    last = LastTensor()
    around = networks.around(pipe)
    with closing(networks):
        with drawing_from(source), around, last, rejected_by(pipe, networks), kept_values(pipe):
            found = twin(**given)
        if noise is not None and not source.used:
            raise UnsupportedError(
                f"{type(pipe).__name__} draws no initial noise for these arguments, so noise= has "
                "no place; leave it out, or hand over what the pipeline takes (latents=)"
            )
        sample = last.of(found)
        if sample is None:
            raise UnsupportedError(
                f"{type(pipe).__name__} returned no tensor, but {type(found[0])}"
            )
        networks.check_reached([sample, *tree_flatten(found)[0]], noise)
        last_stage = "the scheduler's last step" + (" or the decoder" if output == "sample" else "")
        networks.finite.check(sample, last_stage)
        return sample


def _prepared(
    pipe: Any, arguments: Mapping[str, Any], names: Mapping[str, Any], output: str
) -> dict[str, Any]:
    """What the pipeline's `__call__` is given."""
    # Copies: some pipelines write into what they are given.
    given = copies(dict(arguments))
    if "output_type" in names:
        given["output_type"] = OUTPUTS[output]
        if output == "sample" and any(cls.__name__ in NUMPY_ONLY for cls in type(pipe).__mro__):
            given["output_type"] = "np"
    elif output == "latent":
        raise UnsupportedError(f"{type(pipe).__name__} takes no output_type, so it has no latents")
    if "return_dict" in names:
        given["return_dict"] = False
    if given.get("negative_prompt_embeds") is not None and "negative_prompt" in names:
        given.setdefault("negative_prompt", None)  # some defaults are "", which would be a second
    return given


def call_parameters(pipe: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of a pipeline's `__call__`, by name."""
    found = inspect.signature(inspect.unwrap(type(pipe).__call__)).parameters
    return {name: p for name, p in found.items() if name != "self"}


def copies(given: Any) -> Any:
    """Tensors, and the lists and dicts that hold them, of one's own; all else as it is."""
    if isinstance(given, Tensor):
        return given.clone()
    if type(given) is dict:
        return {name: copies(value) for name, value in given.items()}
    return [copies(value) for value in given] if type(given) is list else given


def draws_in_prepare(pipe: Any) -> bool:
    """Whether the pipeline draws its initial noise in the method that prepares latents."""
    prepare = getattr(type(pipe), PREPARE, None)
    return prepare is not None and draws_noise(inspect.unwrap(prepare))


# How pipelines ask for their default size.
_BOTH_SIDES = r"if (not height or not width|height is None or width is None):"


def check_arguments(pipe: Any, arguments: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    """Raise InvalidInputError for arguments that are unknown or that `call_pipeline` sets."""
    for name in ("output_type", "return_dict"):
        if name in arguments:
            raise InvalidInputError(
                f"{name} is set by the model, which returns tensors; "
                'output="latent" asks for latents instead of samples'
            )
    for name in arguments:
        if name not in names and not any(p.kind is p.VAR_KEYWORD for p in names.values()):
            close = difflib.get_close_matches(name, names, n=3) or sorted(names)
            raise InvalidInputError(
                f"{type(pipe).__name__} takes no argument {name!r}; the closest are "
                f"{', '.join(close)}"
            )
    sides = [name for name in ("height", "width") if arguments.get(name) is not None]
    if len(sides) == 1 and _ignores_one_side(type(pipe)):
        raise InvalidInputError(
            f"{type(pipe).__name__} would ignore {sides[0]}={arguments[sides[0]]!r} alone: it "
            "takes height and width together; pass both"
        )


@cache
def _ignores_one_side(cls: type) -> bool:
    """Whether a pipeline's call takes both defaults where one of height and width is missing."""
    try:
        source = inspect.getsource(inspect.unwrap(cls.__call__))
    except (OSError, TypeError):
        return False
    return bool(re.search(_BOTH_SIDES, source))
