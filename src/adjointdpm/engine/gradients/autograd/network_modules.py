"""The modules that a network runs, also where the network is a function around them."""

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

_DEEPEST = 4  # functions within functions


def modules_behind(network: Callable[..., Any]) -> list[nn.Module]:
    """All modules that a network is known to run, each once.

    A function may reach a module by its closure, a default or a global name, as the object that it
    is a method of, or as an argument of `functools.partial`.

    Args:
        network: a module, or any other callable.

    """
    found: dict[int, nn.Module] = {}
    for module in _reached(network, _DEEPEST):
        found |= {id(part): part for part in module.modules()}
    return list(found.values())


def _reached(value: Any, depth: int) -> Iterator[nn.Module]:
    if isinstance(value, nn.Module):
        yield value
        # What is no module is no part of it either: a denoiser may hold a function.
        value = getattr(value, "network", None)
        if isinstance(value, nn.Module):
            return
    if depth == 0 or value is None:
        return
    for inner in _held_by(value):
        if isinstance(inner, nn.Module) or callable(inner):
            yield from _reached(inner, depth - 1)


def _held_by(value: Any) -> list[Any]:
    """What a callable holds on to and may call."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        named = [value.__globals__.get(name) for name in value.__code__.co_names]
        cells = []
        for cell in value.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # not filled yet
                continue
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return cells + defaults + [entry for entry in named if isinstance(entry, nn.Module)]
    if isinstance(value, type):
        return []
    return list(getattr(value, "__dict__", {}).values())
