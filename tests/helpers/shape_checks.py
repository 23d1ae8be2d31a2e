"""Shapes and dtypes that annotations promise are checked in the package's tests.

jaxtyping's import hook, installed by `conftest.py`, puts `check` on every function and dataclass of
the package. Two things differ from handing `beartype.beartype` to the hook:

- Only annotations with a jaxtyping type in them are checked. The others are pyright's business,
  and tests pass a `str` for a tensor on purpose, to see the package's own error.
- Arguments are checked together with the result, after the call. A call that raises is not
  checked: the package's own error is what its test wants to see.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any, get_args, get_origin

from beartype import beartype
from jaxtyping import AbstractArray

# What these yield or return later cannot be checked when a function is called.
LATER = (Callable, Generator, Iterator, AbstractContextManager)


def check(stub: Callable) -> Callable:
    """A typechecker for jaxtyping: check `stub`'s annotations at each of its calls.

    jaxtyping makes two stubs of every function. The one that it calls before the function returns
    Any and is left alone. It calls the other one after the function, with the result added.
    """
    annotations = stub.__annotations__
    if annotations.get("return") is Any:
        return stub
    stub.__annotations__ = {name: a for name, a in annotations.items() if _promises_a_shape(a)}
    return beartype(stub) if stub.__annotations__ else stub


def _promises_a_shape(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    if get_origin(annotation) in LATER:
        return False
    return any(map(_promises_a_shape, get_args(annotation)))
