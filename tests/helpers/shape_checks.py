"""Shapes and dtypes that annotations promise are checked in the package's tests.

jaxtyping's import hook puts a check on the functions and dataclasses of a package. Three things
differ from handing `beartype.beartype` to the hook:

- Only annotations with a jaxtyping type in them are checked. The others are pyright's business,
  and tests pass a `str` for a tensor on purpose, to see the package's own error.
- Arguments are checked together with the result, after the call. A call that raises is not
  checked: the package's own error is what its test wants to see.
- Functions without such an annotation are left as they are, and so are functions inside functions,
  which would be wrapped anew at each call. Otherwise the samplers' tests take four times as long.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar, get_args, get_origin

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

T = TypeVar("T")

# What these yield or return later cannot be checked when a function is called.
LATER = (Callable, Generator, Iterator, AbstractContextManager)
# They hand on what a user's code returns. The package has an error of its own if that is wrong.
UNCHECKED = {"FunctionMetric.__call__"}


def install(package: str) -> jaxtyping._import_hook.ImportHookManager:
    """Check what is imported of `package` from now on; used as a context manager, within it only."""
    jaxtyping.jaxtyped = _jaxtyped_where_a_shape_is_promised  # the name that the hook's code calls
    return jaxtyping.install_import_hook(package, "helpers.shape_checks.check")


def check(stub: Callable) -> Callable:
    """A typechecker for jaxtyping: check `stub`'s annotations at each of its calls.

    jaxtyping makes two stubs of a function. The one that it calls before the function returns Any
    and is left alone. It calls the other one after the function, with the result added.
    """
    annotations = stub.__annotations__
    if annotations.get("return") is Any:
        return stub
    stub.__annotations__ = {name: a for name, a in annotations.items() if _promises_a_shape(a)}
    return beartype(stub)


def _jaxtyped_where_a_shape_is_promised(*, typechecker: Callable) -> Callable[[T], T]:
    def decorate(target: T) -> T:
        called = target.__init__ if isinstance(target, type) else target
        name, annotations = called.__qualname__, getattr(called, "__annotations__", {})
        if "<locals>" in name or name in UNCHECKED:
            return target
        if not any(map(_promises_a_shape, annotations.values())):
            return target
        return jaxtyped(target, typechecker=typechecker)

    return decorate


def _promises_a_shape(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    if get_origin(annotation) in LATER:
        return False
    return any(map(_promises_a_shape, get_args(annotation)))
