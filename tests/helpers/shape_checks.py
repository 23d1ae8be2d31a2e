"""Shapes and dtypes that annotations promise are checked in the package's tests.

jaxtyping's import hook puts a check on the functions and dataclasses of a package. Three things
differ from handing `beartype.beartype` to the hook:

- Only annotations with a jaxtyping type in them are checked. The others are pyright's business,
  and tests pass a `str` for a tensor on purpose, to see the package's own error.
- Arguments are checked together with the result, after the call. A call that raises is not
  checked: the package's own error is what its test wants to see.
- Functions without such an annotation are left as they are, and so are functions inside functions,
  which would be wrapped anew at each call. Of the others the first calls in each test are checked.
  Otherwise tests with thousands of sampler steps take four times as long.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import is_dataclass
from functools import wraps
from typing import Any, get_args, get_origin

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray, jaxtyped

# What these yield or return later cannot be checked when a function is called.
LATER = (Callable, Generator, Iterator, AbstractContextManager)
# They hand on what a user's code returns. The package has an error of its own if that is wrong.
UNCHECKED = {"FunctionMetric.__call__"}

CALLS_CHECKED = 100
calls: Counter[Callable] = Counter()  # in the test that runs


def install(package: str) -> jaxtyping._import_hook.ImportHookManager:
    """Check what is imported of `package` from now on, or within the context that this opens."""
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


def _jaxtyped_where_a_shape_is_promised(*, typechecker: Callable) -> Callable[[Any], Any]:
    def decorate(target: Any) -> Any:
        if not isinstance(target, type):
            return _checked_at_first(target, typechecker)
        if is_dataclass(target):
            target.__init__ = _checked_at_first(target.__init__, typechecker)
        return target

    return decorate


def _checked_at_first(function: Callable, typechecker: Callable) -> Callable:
    if "<locals>" in function.__qualname__ or function.__qualname__ in UNCHECKED:
        return function
    if not any(map(_promises_a_shape, getattr(function, "__annotations__", {}).values())):
        return function
    checked = jaxtyped(function, typechecker=typechecker)

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        calls[function] += 1
        return (checked if calls[function] <= CALLS_CHECKED else function)(*args, **kwargs)

    return called


def _promises_a_shape(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    if get_origin(annotation) in LATER:
        return False
    return any(map(_promises_a_shape, get_args(annotation)))
