"""The checks of shapes in the test run: they find a wrong shape and leave everything else alone."""

import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

import adjointdpm as adj
from helpers import shape_checks

WRONG = """
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from jaxtyping import Float, Int
from torch import Tensor

def doubled(x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
    return x.repeat(2, 1)

def first(x: Float[Tensor, "batch width"], y: Float[Tensor, " batch"] | None = None) -> Tensor:
    return x[0]

def refuse(x: Float[Tensor, "batch width"]) -> Tensor:
    raise ValueError("our own error")

def plain(x: int) -> str:
    return x

@dataclass
class Pair:
    values: Float[Tensor, " n"]
    places: Int[Tensor, " n"]

@contextmanager
def yielding(x: Float[Tensor, " n"]) -> Iterator[Float[Tensor, " n"]]:
    yield x

def calling(f: Callable[[Float[Tensor, " n"]], Tensor]) -> Tensor:
    return f(3)
"""
ONE, TWO = torch.zeros(3, 4), torch.zeros(2)


@pytest.fixture
def module(tmp_path: Path, monkeypatch):
    name = "a_module_of_wrong_shapes"
    (tmp_path / f"{name}.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    with shape_checks.install(name):
        yield __import__(name)
    del sys.modules[name]


def test_wrong_shapes_are_found(module) -> None:
    with pytest.raises(TypeCheckError, match="return value"):
        module.doubled(ONE)
    with pytest.raises(TypeCheckError):
        module.first(ONE, TWO)
    with pytest.raises(TypeCheckError):
        module.first(ONE.int())
    with pytest.raises(TypeCheckError):
        module.Pair(TWO, torch.zeros(3, dtype=torch.int64))
    assert module.first(ONE, torch.zeros(3)).shape == (4,)
    assert module.Pair(TWO, TWO.long()).values is TWO


def test_of_many_calls_the_first_ones_are_checked(module, monkeypatch) -> None:
    monkeypatch.setattr(shape_checks, "CALLS_CHECKED", 1)
    with pytest.raises(TypeCheckError):
        module.doubled(ONE)
    assert module.doubled(ONE).shape == (6, 4)
    shape_checks.calls.clear()
    with pytest.raises(TypeCheckError):
        module.doubled(ONE)


def test_other_annotations_and_calls_that_raise_are_left_alone(module) -> None:
    assert module.plain("not an int") == "not an int"
    with pytest.raises(ValueError, match="our own error"):
        module.refuse("not a tensor")
    with module.yielding(TWO) as same:
        assert same is TWO
    assert module.calling(lambda x: x) == 3


def test_the_package_is_checked() -> None:
    schedule = adj.NoiseSchedule.from_alphas_cumprod(torch.linspace(0.99, 0.01, 100))
    assert hasattr(schedule.alpha, "__wrapped__")
    assert hasattr(adj.sample, "__wrapped__")
