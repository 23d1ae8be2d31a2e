"""What a command says at its end: numbers in a tiny unit, and who says what pictures show."""

import pytest

from adjointdpm.cli.learn import _number, _summary


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.4567, "0.457"), (-1.0, "-1.000"), (0.0, "0.000"), (-0.000134366, "-0.000134")],
)
def test_three_decimals_or_three_digits(value: float, shown: str) -> None:
    assert _number(value) == shown


@pytest.mark.parametrize("guard", [None, "share of what is gone"])
def test_who_says_that_other_drawings_still_show_their_subject(guard: str | None) -> None:
    held_out = {"before": 1.0, "after": 0.5, "change": -0.5, "interval": [-0.6, -0.4]}
    result = {
        "held_out": held_out | {"examples": 1, "prompts": 1, "structure_distance": 0.9},
        "metric": {"name": "red", "sign": 1.0, "before": 1.0, "after": 0.5},
        "optimisation": {"best_iteration": 1},
        "guard": guard,
        "story": {"views": {"before": "before", "after": "after"}},
    }
    said = _summary(result)
    assert "are other drawings now" in said
    assert (guard or "No judge knows") in said


@pytest.mark.parametrize(("after", "warned"), [(0.0, True), (1.0, False)])
def test_a_guided_picture_that_the_judge_finds_no_longer_should_be_looked_at(
    after: float, warned: bool
) -> None:
    held_out = {"before": 1.0, "after": 0.5, "change": -0.5, "same_examples": True}
    result = {
        "held_out": held_out
        | {"examples": 1, "prompts": 1, "recognised": {"before": 1.0, "after": after}},
        "metric": {"name": "red", "sign": 1.0, "before": 1.0, "after": 0.5},
        "optimisation": {"best_iteration": 1},
        "story": {"views": {"before": "before", "after": "after"}},
    }
    assert ("Look at the pictures" in _summary(result)) is warned
