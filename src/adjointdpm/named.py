"""Things made from text: `NAME`, or `NAME:key=value,…` with options."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import yaml

from adjointdpm.errors import InvalidInputError, UnknownNameError

T = TypeVar("T")


def build_named(kind: str, text: str, registry: Mapping[str, Callable[..., T]], otherwise: str = "") -> T:
    """Call what `text` names in `registry`, with the options that it gives.

    Args:
        kind: what errors call it: "metric", "gradient".
        text: `NAME` or `NAME:key=value,…`; values are read as YAML scalars.
        registry: builders by name.
        otherwise: added to the list of known names.

    Raises:
        UnknownNameError: no such name; the message lists those there are.
        InvalidInputError: an option that is not key=value, that the builder does not take, or that is missing.

    """
    name, _, rest = text.partition(":")
    if name not in registry:
        raise UnknownNameError(f"{kind} {name!r} is unknown; choose one of {', '.join(registry)}{otherwise}")
    given: dict[str, Any] = {}
    for option in filter(None, rest.split(",")):
        key, equals, value = option.partition("=")
        if not equals or not value:
            raise InvalidInputError(f"{kind} {text!r}: {option!r} must be key=value")
        given[key.strip()] = _parse_value(value)
    known = inspect.signature(registry[name]).parameters
    for option in given:
        if option not in known:
            raise InvalidInputError(f"{kind} {text!r}: {name} has no option {option!r}; it takes {', '.join(known) or 'none'}")
    missing = [option for option, parameter in known.items() if parameter.default is parameter.empty and option not in given]
    if missing:
        raise InvalidInputError(f"{kind} {text!r}: {name} needs {', '.join(f'{option}=…' for option in missing)}")
    return registry[name](**given)


def _parse_value(text: str) -> Any:
    """A number, true, false, null, or the text itself: also a path that means something else in YAML, such as a date."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, str | bool | int | float | None) else text
