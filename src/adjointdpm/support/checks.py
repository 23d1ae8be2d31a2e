"""Checks of numbers that a user gives; every message names the argument, its value and the rule."""

import math

from adjointdpm.errors import InvalidInputError, InvalidTypeError


def check_int(
    name: str,
    value: object,
    least: int | None = None,
    *,
    most: int | None = None,
    why: str = "",
) -> None:
    """Check that a value is a whole number, not below `least` and not above `most`.

    Args:
        name: what messages call the value.
        value: what the user gave; True and False are no numbers.
        least: the smallest number allowed.
        most: the largest number allowed.
        why: added to the message where there is no upper bound or it is broken.

    Raises:
        InvalidTypeError: not an int.
        InvalidInputError: below `least`, or above `most`.

    """
    rule = "an int" if least is None else f"an int of at least {least}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(_message(name, value, rule, why if most is None else ""))
    if least is not None and value < least:
        raise InvalidInputError(_message(name, value, rule, why if most is None else ""))
    if most is not None and value > most:
        raise InvalidInputError(_message(name, value, f"an int of at most {most}", why))


def check_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    why: str = "",
) -> None:
    """Check that a value is a finite number within the bounds that are given.

    Args:
        name: what messages call the value.
        value: what the user gave; True and False are no numbers.
        above, least: the lower bound, excluded or included.
        below, most: the upper bound, excluded or included.
        why: added to the message, after a semicolon.

    Raises:
        InvalidTypeError: not a number.
        InvalidInputError: NaN, infinite, or out of bounds.

    """
    bounds = (("above", above), ("at least", least), ("below", below), ("at most", most))
    given = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
    rule = ", ".join(["a finite number", given] if given else ["a finite number"])
    if given == "above 0":
        rule = "a positive, finite number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidTypeError(_message(name, value, rule, why))
    if (
        not (isinstance(value, int) or math.isfinite(value))
        or (above is not None and value <= above)
        or (least is not None and value < least)
        or (below is not None and value >= below)
        or (most is not None and value > most)
    ):
        raise InvalidInputError(_message(name, value, rule, why))


def _message(name: str, value: object, rule: str, why: str) -> str:
    return f"{name}={_shown(value)} must be {rule}" + (f"; {why}" if why else "")


def _shown(value: object) -> str:
    """A value as Python writes it, cut where that would be pages; of a long int, how long it is."""
    if isinstance(value, int) and abs(value) >= 10**40:
        return f"{'-' if value < 0 else ''}10**{math.log10(abs(value)):.0f}, about,"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"
