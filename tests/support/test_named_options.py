"""Options in texts such as color:mood=dusk,spread=1e-2: read as what they are for, or refused in
words.
"""

from typing import Any, Literal

import pytest
from torch import Tensor

from adjointdpm import errors, metrics
from adjointdpm.engine import gradients, samplers
from adjointdpm.metrics import ColorStatistics
from adjointdpm.support.named_options import build_named, quoted


def options(
    text: str = "",
    number: float | None = None,
    whole: int = 0,
    flag: bool = False,
    either: int | Literal["auto"] | None = None,
    wanted: int | str = 0,
    tensor: Tensor | None = None,
    only: Tensor = None,  # pyright: ignore[reportArgumentType]
) -> dict[str, Any]:
    return locals()


def read(option: str) -> Any:
    key = option.partition("=")[0]
    return build_named("thing", f"a:{option}", {"a": options})[key]


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("number=1e-2", 0.01),
        ("number=1", 1.0),
        ("number= .5 ", 0.5),
        ("number=null", None),
        ("whole=-3", -3),
        ("flag=true", True),
        ("flag=false", False),
        ("either=auto", "auto"),
        ("either=5", 5),
        ("either=null", None),
        ("wanted=5", 5),
        ("wanted='5'", "5"),
        ("wanted=5.5", "5.5"),
        ("tensor=null", None),
        ("text=5", "5"),
        ("text=null", "null"),
        ("text=2024-01-01", "2024-01-01"),
        ("text=a cat's = eye", "a cat's = eye"),
        ('text="a cat, asleep"', "a cat, asleep"),
        ("text='a \"cat\", it''s asleep' ", 'a "cat", it\'s asleep'),
        ('text=""', ""),
    ],
)
def test_values_are_what_the_option_is_for(option: str, expected: Any) -> None:
    value = read(option)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("number=big", "number='big' must be a number or null"),
        ("number=nan", "a number"),
        ("number=inf", "a number"),
        ("number='1'", "a number"),
        ("whole=1.5", "whole='1.5' must be a whole number"),
        ("whole=true", "a whole number"),
        ("flag=yes", "true or false"),
        ("flag=1", "true or false"),
        ("either=some", "a whole number or auto or null"),
        ("tensor=5", "given in Python or null"),
        ("only=null", "given in Python"),
        ('text="a cat', "in quotes"),
        ('text="a" cat', "in quotes"),
        ("text=a, cat", "in quotes"),
        ("text=", "key=value"),
    ],
)
def test_values_of_another_kind_are_refused_in_words(option: str, message: str) -> None:
    with pytest.raises(errors.InvalidInputError, match=message):
        read(option)


def test_several_options_of_which_some_hold_commas() -> None:
    found = build_named("thing", "a:text='x, y=z',number=2,wanted=\"1,2\",", {"a": options})
    assert (found["text"], found["number"], found["wanted"]) == ("x, y=z", 2.0, "1,2")


@pytest.mark.parametrize("value", ["a cat", "a, b", '"a"', "'", "", 'a "b", c'])
def test_what_is_quoted_is_read_back(value: str) -> None:
    assert read(f"text={quoted(value)}") == value


@pytest.mark.parametrize(
    ("resolve", "text"),
    [
        (metrics.resolve, "color:mood=dusk,spread=big"),
        (metrics.resolve, "color:red=true,green=1,blue=0"),
        (metrics.resolve, "safety:threshold=true"),
        (metrics.resolve, "gram:reference=a.png,size=big"),
        (gradients.resolve, "interpolated:vjps=a"),
        (gradients.resolve, "adjoint:steps=x"),
        (gradients.resolve, "adjoint:sampler=heun"),
        (gradients.resolve, "auto:tolerance=x"),
        (gradients.resolve, "checkpoint:memory_budget=x"),
        (samplers.resolve, "adams_bashforth:order=x"),
        (samplers.resolve, "ancestral:eta=x"),
        (samplers.resolve, "reversible_euler:coupling=x"),
    ],
)
def test_everything_that_has_a_name_is_read_so(resolve: Any, text: str) -> None:
    with pytest.raises(errors.InvalidInputError, match="must be"):
        resolve(text)


def test_metrics_take_small_numbers_and_commas_and_say_their_own_text() -> None:
    assert metrics.resolve("color:mood=dusk,spread=1e-2") == ColorStatistics("dusk", spread=0.01)
    text = 'similarity:text="an owl, asleep"'
    assert metrics.resolve(text).name == text


def test_a_picture_with_a_comma_in_its_name(tmp_path) -> None:
    from PIL import Image

    path = tmp_path / "teal, plain.png"
    Image.new("RGB", (16, 16), "teal").save(path)
    metric = metrics.resolve(f"reference:reference='{path}',distance=l1")
    assert metrics.resolve(metric.name).name == metric.name


def test_an_option_that_is_given_twice_is_refused() -> None:
    with pytest.raises(errors.InvalidInputError, match="number is given twice"):
        build_named("thing", "options:number=1,number=2", {"options": options})


@pytest.mark.parametrize(
    ("text", "value"),
    [("no", "no"), ("010", 10), ("true", True), ("1e-3", 1e-3), ("12:30", "12:30")],
)
def test_without_annotation_a_value_is_what_it_looks_like(text: str, value: Any) -> None:
    def free(x):
        return x

    assert build_named("thing", f"free:x={text}", {"free": free}) == value
