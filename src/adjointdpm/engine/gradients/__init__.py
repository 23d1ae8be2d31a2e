"""Gradient methods, one file each; a new one is a file here and a line in `GRADIENTS`."""

from collections.abc import Callable
from functools import cache
from typing import Literal

from adjointdpm.engine.gradients.adjoint import Adjoint
from adjointdpm.engine.gradients.auto import Auto
from adjointdpm.engine.gradients.backprop import Backprop
from adjointdpm.engine.gradients.base import AutogradMethod, GradientMethod
from adjointdpm.engine.gradients.checkpoint import Checkpoint
from adjointdpm.engine.gradients.interpolated import Interpolated
from adjointdpm.engine.gradients.reversible import Reversible
from adjointdpm.engine.gradients.truncated import Truncated
from adjointdpm.support.named_options import resolve_named


@cache
def _auto(tolerance: float = 0.01, memory_budget: int | Literal["auto"] | None = None) -> Auto:
    """One for all that ask for the same: what it has measured is for the next call."""
    return Auto(tolerance, memory_budget)


GRADIENTS: dict[str, Callable[..., GradientMethod]] = {
    "exact": Checkpoint,
    "checkpoint": Checkpoint,
    "backprop": Backprop,
    "adjoint": Adjoint,
    "reversible": Reversible,
    "interpolated": Interpolated,
    "truncated": Truncated,
    "auto": _auto,
}


def resolve(gradient: str | GradientMethod) -> GradientMethod:
    """The method itself, or the one that a text names: "truncated:last=5", "adjoint:states=stored".

    Raises:
        UnknownNameError: no method has that name.
        InvalidInputError: an option is unknown or missing.
        InvalidTypeError: `gradient` is neither a method nor a text.

    """
    return resolve_named("gradient", gradient, GradientMethod, GRADIENTS, "adjointdpm.Checkpoint()")


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
