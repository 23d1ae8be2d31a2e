"""Modes of torch that hold for the whole program, and code that leaves them changed."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from adjointdpm.errors import AdjointDPMError

T = TypeVar("T")
_MODES = (
    ("whether gradients are recorded", torch.is_grad_enabled, torch.set_grad_enabled),
    ("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("the detection of anomalies", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
)  # reading them costs next to nothing: a network is called often


def call_keeping_modes(
    function: Callable[..., T], what: str, error: type[AdjointDPMError], *args: Any
) -> T:
    """Call a function that must leave torch's modes as they were; they are set back if not.

    With gradients left switched off, all that follows would have none, without a word.

    Args:
        function: the user's.
        what: it is, as in "the network".
        error: the class of the exception to raise.
        args: for the function.

    Raises:
        error: it changed a mode; the message names its file and line.

    """
    before = [read() for _, read, _ in _MODES]
    try:
        found = function(*args)
    except BaseException:
        _set_back(before)
        raise
    if changed := _set_back(before):
        raise error(
            f"{what}{_place(function)} changed {', '.join(changed)}, which holds for the whole "
            "program; it was set back. Change it within a block only, as in "
            "`with torch.no_grad():`"
        )
    return found


def _set_back(before: list[Any]) -> list[str]:
    """Set the modes; return the names of those that had changed."""
    changed = []
    for (name, read, write), value in zip(_MODES, before, strict=True):
        if read() != value:
            write(value)
            changed.append(name)
    return changed


def _place(function: Any) -> str:
    """Where a function or a module's forward stands."""
    called = type(function).forward if isinstance(function, nn.Module) else function
    code = getattr(inspect.unwrap(called), "__code__", None)
    return "" if code is None else f" ({code.co_filename}, line {code.co_firstlineno})"
