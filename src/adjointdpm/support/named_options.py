"""Objects built from text: `NAME`, or `NAME:key=value,…` with options."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from adjointdpm.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from adjointdpm.support.yaml_values import read_value

T = TypeVar("T")
# A quote inside a value that stands in such quotes is written twice.
_OPTION = re.compile(
    r"""([^=,]+)=\s*(?:"((?:[^"]|"")*)"\s*|'((?:[^']|'')*)'\s*|([^,"'\s][^,]*))(?:,|$)"""
)
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}


def build_named(
    kind: str, text: str, registry: Mapping[str, Callable[..., T]], otherwise: str = ""
) -> T:
    """Call the builder that `text` names, with the options that it gives.

    Args:
        kind: what errors call it: "metric", "gradient".
        text: `NAME` or `NAME:key=value,…`. A value that holds a comma stands in quotes, single or
            double: `text="red, green"`. Values are read as the builder's annotations say; without
            annotation, as YAML scalars.
        registry: builders by name.
        otherwise: added to the list of known names.

    Raises:
        UnknownNameError: there is no such name; the message lists the known ones.
        InvalidInputError: an option is not of the form key=value, is unknown to the builder, is
            missing, is given twice, or has a value of another kind.

    """
    name, _, rest = text.partition(":")
    if name not in registry:
        raise UnknownNameError(
            f"{kind} {name!r} is unknown; choose one of {', '.join(registry)}{otherwise}"
        )
    known = inspect.signature(registry[name]).parameters
    given: dict[str, Any] = {}
    for option, value, in_quotes in _options(kind, text, rest):
        if option not in known:
            raise InvalidInputError(
                f"{kind} {text!r}: {name} has no option {option!r}; it takes "
                f"{', '.join(known) or 'none'}"
            )
        if option in given:
            raise InvalidInputError(f"{kind} {text!r}: {option} is given twice; leave one out")
        try:
            given[option] = _read(value, in_quotes, known[option].annotation)
        except ValueError as error:
            raise InvalidInputError(
                f"{kind} {text!r}: {option}={value!r} must be {error}"
            ) from error
    missing = [
        option
        for option, parameter in known.items()
        if parameter.default is parameter.empty and option not in given
    ]
    if missing:
        raise InvalidInputError(
            f"{kind} {text!r}: {name} needs {', '.join(f'{option}=…' for option in missing)}"
        )
    return registry[name](**given)


def resolve_named(
    kind: str,
    given: object,
    accepted: type[T],
    registry: Mapping[str, Callable[..., T]],
    example: str,
) -> T:
    """Return `given` if it is an instance of `accepted`, else build what the text names.

    Args:
        kind: the argument's name, for error texts: "sampler", "gradient".
        given: what the user passed: an object, or a text as `build_named` reads it.
        accepted: the class of the objects.
        registry: builders by name.
        example: an object as a user would write it, for error texts.

    Raises:
        UnknownNameError: no builder has that name.
        InvalidInputError: an option is unknown, missing or has an impossible value.
        InvalidTypeError: `given` is neither such an object nor a text.

    """
    if isinstance(given, accepted):
        return given
    if not isinstance(given, str):
        raise InvalidTypeError(
            f"{kind}={given!r} must be an object such as {example}, or one of {', '.join(registry)}"
        )
    return build_named(kind, given, registry)


def quoted(value: str) -> str:
    """Quote a text where it must be quoted to be the value of an option."""
    return (
        '"' + value.replace('"', '""') + '"'
        if "," in value or value[:1] in ("", '"', "'")
        else value
    )


def _options(kind: str, text: str, rest: str) -> list[tuple[str, str, bool]]:
    """Key, value, and whether it stood in quotes."""
    found, position = [], 0
    while position < len(rest):
        match = _OPTION.match(rest, position)
        if match is None:
            raise InvalidInputError(
                f"{kind} {text!r}: {rest[position:]!r} must be key=value; a value that holds a "
                f"comma must stand in quotes"
            )
        key, double, single, plain = match.groups()
        value = (
            double.replace('""', '"')
            if double is not None
            else single.replace("''", "'")
            if single is not None
            else plain.strip()
        )
        found.append((key.strip(), value, plain is None))
        position = match.end()
    return found


def _read(text: str, in_quotes: bool, annotation: Any) -> Any:
    """The value of an option; raises ValueError with what it must be."""
    if annotation is inspect.Parameter.empty:
        return text if in_quotes else _scalar(text)
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    for kind in sorted(kinds, key=lambda kind: kind is str):  # any text is one
        with suppress(ValueError):
            return _as(kind, text, in_quotes)
    names = [
        name
        for kind in kinds
        for name in (
            get_args(kind) if get_origin(kind) is Literal else [_KINDS.get(kind, "given in Python")]
        )
    ]
    raise ValueError(" or ".join(names))


def _as(kind: Any, text: str, in_quotes: bool) -> Any:
    """The text as a value of one kind, or ValueError."""
    if kind is str or (get_origin(kind) is Literal and text in get_args(kind)):
        return text
    if kind is NoneType and not in_quotes and text == "null":
        return None
    if kind is bool and not in_quotes and text in ("true", "false"):
        return text == "true"
    if kind is int and not in_quotes:
        return int(text)
    if kind is float and not in_quotes and math.isfinite(float(text)):
        return float(text)
    raise ValueError


def _scalar(text: str) -> Any:
    """A number, true, false, null, or else the text itself, also where YAML reads a date."""
    try:
        value = read_value(text)
    except ValueError:
        return text
    return value if isinstance(value, str | bool | int | float | None) else text
