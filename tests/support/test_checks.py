"""Checks of numbers."""

import math

import pytest

from adjointdpm.errors import InvalidInputError, InvalidTypeError
from adjointdpm.support.checks import check_int, check_number


def test_numbers_within_their_bounds_pass() -> None:
    check_int("n", -5)
    check_int("n", 1, 1)
    check_number("x", -1e30)
    check_number("x", 1, above=0, most=1)
    check_number("x", 0.0, least=0, below=1)


@pytest.mark.parametrize("value", [True, 1.0, "1", None])
def test_what_is_no_int_is_refused(value: object) -> None:
    with pytest.raises(InvalidTypeError, match=f"n={value!r} must be an int of at least 1"):
        check_int("n", value, 1)


def test_an_int_below_the_least_is_refused_and_the_reason_is_said() -> None:
    with pytest.raises(InvalidInputError, match="n=0 must be an int of at least 1; nothing to do"):
        check_int("n", 0, 1, why="nothing to do")


@pytest.mark.parametrize("value", [False, "0.5", None, 1j])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(InvalidTypeError, match="must be a finite number"):
        check_number("x", value)


@pytest.mark.parametrize(
    ("value", "bounds", "rule"),
    [
        (math.nan, {}, "a finite number$"),
        (-math.inf, {"below": 1}, "a finite number, below 1"),
        (math.inf, {"above": 0}, "a positive, finite number"),
        (0, {"above": 0}, "a positive, finite number"),
        (-0.1, {"least": 0, "below": 1}, "a finite number, at least 0 and below 1"),
        (1, {"least": 0, "below": 1}, "a finite number, at least 0 and below 1"),
        (1.5, {"above": 0, "most": 1}, "a finite number, above 0 and at most 1"),
    ],
)
def test_numbers_out_of_bounds_are_refused_with_the_rule(
    value: float, bounds: dict[str, float], rule: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"x={value!r} must be {rule}"):
        check_number("x", value, **bounds)
