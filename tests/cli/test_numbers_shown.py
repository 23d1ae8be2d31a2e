"""Numbers of a metric in a tiny unit are not shown as 0."""

import pytest

from adjointdpm.cli.learn import _number


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.4567, "0.457"), (-1.0, "-1.000"), (0.0, "0.000"), (-0.000134366, "-0.000134")],
)
def test_three_decimals_or_three_digits(value: float, shown: str) -> None:
    assert _number(value) == shown
