"""Gradient methods, one file each; a new one is a file here and a line in `GRADIENTS`."""

from collections.abc import Callable
from functools import cache

from adjointdpm.errors import InvalidTypeError, UnknownNameError
from adjointdpm.gradients.adjoint import Adjoint
from adjointdpm.gradients.auto import Auto
from adjointdpm.gradients.backprop import Backprop
from adjointdpm.gradients.base import AutogradMethod, GradientMethod
from adjointdpm.gradients.checkpoint import Checkpoint
from adjointdpm.gradients.interpolated import Interpolated
from adjointdpm.gradients.reversible import Reversible
from adjointdpm.gradients.truncated import Truncated

# Names with their defaults; "truncated" and "interpolated" have no default length and are asked for by class.
GRADIENTS: dict[str, Callable[[], GradientMethod]] = {
    "exact": Checkpoint,
    "checkpoint": Checkpoint,
    "backprop": Backprop,
    "adjoint": Adjoint,
    "reversible": Reversible,
    "auto": cache(Auto),  # one for all: what it has measured is for the next call
}


def resolve(gradient: str | GradientMethod) -> GradientMethod:
    """The method itself, or the one with that name and its defaults.

    Raises:
        UnknownNameError: no method has that name.
        InvalidTypeError: neither a method nor a name.

    """
    if isinstance(gradient, GradientMethod):
        return gradient
    if not isinstance(gradient, str):
        raise InvalidTypeError(f"gradient={gradient!r} must be a method such as adjointdpm.Checkpoint(), or one of {', '.join(GRADIENTS)}")
    if gradient not in GRADIENTS:
        raise UnknownNameError(f"gradient={gradient!r} is unknown; choose one of {', '.join(GRADIENTS)}")
    return GRADIENTS[gradient]()


__all__ = [
    "GRADIENTS",
    "Adjoint",
    "Auto",
    "AutogradMethod",
    "Backprop",
    "Checkpoint",
    "GradientMethod",
    "Interpolated",
    "Reversible",
    "Truncated",
    "resolve",
]
