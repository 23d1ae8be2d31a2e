"""A wrong type given to a public function is an error that names the argument, not one from within.

A call is not checked beforehand: functions have checks of their own, which know more. Only where
one fails with some other error, the arguments are held against the annotations.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from reprlib import Repr
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from jaxtyping import AbstractArray
from torch import Tensor

from adjointdpm.errors import (
    AdjointDPMError,
    DeviceError,
    InvalidInputError,
    InvalidTypeError,
)

_WORDS = {int: "an int", float: "a number", str: "a text", bool: "True or False"}
# What arguments of these names are wherever their annotation is Any, and an attribute that tells.
_NAMED = {
    "pipe": ("a diffusers pipeline", "components"),
    "model": ("a model, as adjointdpm.load returns it", "pipe"),
}
_LOOKED_AT = 100  # entries of a sequence
_repr = Repr()
_repr.maxstring = _repr.maxother = 60


def explain_types(
    namespace: dict[str, Any], names: Iterable[str], *, check_objects: bool = False
) -> None:
    """Let the public functions and classes of a module explain wrong types of their arguments.

    Classes are changed themselves, with their public methods. Functions are replaced in the module
    that exports them.

    Args:
        namespace: the module's `globals()`.
        names: what it exports.
        check_objects: hold the arguments of classes against the annotations even where making the
            object did not fail: it would fail later, where nobody knows why.

    """
    for name in names:
        found = namespace[name]
        if inspect.isfunction(found):
            namespace[name] = explaining(found)
        elif inspect.isclass(found) and not issubclass(found, BaseException):
            _explain_methods(found, check_objects)


def explaining(function: Callable[..., Any], always: bool = False) -> Callable[..., Any]:
    """The function, with `InvalidTypeError` where it fails over an argument of a wrong type.

    Args:
        function: any.
        always: raise it also where the function did not fail.

    """
    if hasattr(function, "explains_types"):
        return function

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            result = function(*args, **kwargs)
        except AdjointDPMError:
            raise
        except Exception as error:
            for wrong in _wrong_arguments(function, args, kwargs):
                raise wrong from error
            raise
        if always:
            for wrong in _wrong_arguments(function, args, kwargs):
                raise wrong
        return result

    called.explains_types = True  # pyright: ignore[reportAttributeAccessIssue]
    return called


def _explain_methods(found: type, check_objects: bool) -> None:
    for name, member in list(vars(found).items()):
        public = not name.startswith("_") or name in ("__init__", "__call__")
        if not public or getattr(member, "__isabstractmethod__", False):
            continue
        if inspect.isfunction(member):
            setattr(found, name, explaining(member, check_objects and name == "__init__"))
        elif isinstance(member, classmethod | staticmethod):
            setattr(found, name, type(member)(explaining(member.__func__)))


def _wrong_arguments(
    function: Callable[..., Any], args: Any, kwargs: Any
) -> Iterator[AdjointDPMError]:
    """Errors about the arguments of a call that are to blame if it failed, in their order."""
    try:
        signature, hints = _annotations(function)
        given = signature.bind(*args, **kwargs).arguments
    except Exception:  # arguments that do not fit the signature: Python's own message is as good
        return
    name = function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")
    for argument, value in given.items():
        said, hint = f"{name}: {argument}={_shown(value)}", hints.get(argument, Any)
        if not _is(value, hint) or not _is_named(value, argument, hint):
            wanted = _NAMED[argument][0] if hint is Any else _in_words(hint)
            yield InvalidTypeError(
                f"{said} must be {wanted}, and is of type {type(value).__name__}"
            )
        elif isinstance(value, Tensor) and value.device.type == "meta":
            yield DeviceError(f"{said} is on the meta device, where tensors hold no numbers")
        elif any(_has_half_letters(text) for text in _texts(value)):
            yield InvalidInputError(f"{said} holds half a letter (a lone surrogate)")


@functools.cache
def _annotations(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    return inspect.signature(function), get_type_hints(function)


def _is_named(value: Any, argument: str, hint: Any) -> bool:
    return hint is not Any or argument not in _NAMED or hasattr(value, _NAMED[argument][1])


def _texts(value: Any) -> list[str]:
    several = value[:_LOOKED_AT] if isinstance(value, list | tuple) else [value]
    return [text for text in several if isinstance(text, str)]


def _has_half_letters(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _is(value: Any, hint: Any) -> bool:
    """Whether a value may be of a type; in doubt it is."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_is(value, kind) for kind in args)
    if origin is Literal:
        return any(type(value) is type(known) and value == known for known in args)
    if hint is None or hint is type(None):
        return value is None
    if hint in (int, float):
        number = Integral if hint is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return isinstance(value, Tensor) and isinstance(value, hint)
    kind = origin or hint
    if not inspect.isclass(kind) or getattr(kind, "_is_protocol", False):
        return kind is not Callable or callable(value)
    if not isinstance(value, cast(type, kind)):
        return False
    if issubclass(kind, Mapping) and len(args) == 2:
        return all(_is(k, args[0]) and _is(v, args[1]) for k, v in [*value.items()][:_LOOKED_AT])
    if issubclass(kind, Sequence) and not issubclass(kind, str) and args:
        if isinstance(value, str | bytes):
            return False
        if not issubclass(kind, tuple) or args[-1] is Ellipsis:
            return all(_is(entry, args[0]) for entry in value[:_LOOKED_AT])
    return True


def _in_words(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_in_words, args)))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if hint in _WORDS:
        return _WORDS[hint]
    if hint is None or hint is type(None):
        return "None"
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return f"a tensor [{', '.join(hint.dim_str.split())}] of dtype {_dtypes(hint)}"
    kind = origin or hint
    if inspect.isclass(kind):
        if issubclass(kind, Sequence) and args:
            return f"a sequence, each of it {_in_words(args[0])}"
        if kind is Callable:
            return "a function"
        return f"a {kind.__name__}"
    return str(hint)


def _dtypes(hint: Any) -> str:
    known = hint.dtypes
    return " or ".join(map(str, known)) if isinstance(known, list | tuple) else str(known)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} in {value.dtype}"
    return _repr.repr(value)
