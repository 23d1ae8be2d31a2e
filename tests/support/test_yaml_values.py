"""YAML as people mean it, and how much memory there is."""

import math
from typing import Any

import pytest
import torch
import yaml

from adjointdpm.errors import InvalidInputError
from adjointdpm.support import memory
from adjointdpm.support.yaml_values import read_entries, read_value, text_of, value_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", "yes"),
        ("Off", "Off"),
        ("true", True),
        ("~", None),
        ("", None),
        ("010", 10),
        ("-3", -3),
        ("1e-3", 1e-3),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("'010'", "010"),
        ("[1, no, {a: 2}]", [1, "no", {"a": 2}]),
        ("=", "="),
    ],
)
def test_a_value_is_what_it_looks_like(text: str, value: Any) -> None:
    found = read_value(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "value", [1, -2.5e-7, True, None, "no", "010", "", "~", "ä\n", [1, "x"], {"a": [None]}]
)
def test_what_pyyaml_writes_is_read_back(value: Any) -> None:
    assert read_value(yaml.safe_dump(value)) == value
    assert value_of(read_entries(yaml.safe_dump({"key": value}))["key"]) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2", "'a' stands there twice, the second time in line 2"),
        ("[1]", "names and values"),
        ("a: b: c", "mapping values are not allowed"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_what_is_no_mapping_of_values_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_entries(text)


@pytest.mark.parametrize("text", ["!!python/object:os.system {}", "!!binary aGk=", "!x y", '"\\0"'])
def test_tags_and_what_is_no_text_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|holds what is no text"):
        text_of(read_entries(f"a: {text}")["a"])


def test_what_takes_more_than_is_free_is_refused() -> None:
    free = memory.free_bytes()
    assert 0 < free < 2**60
    memory.check_room((10,), "ten numbers", "take fewer")
    with pytest.raises(InvalidInputError, match=r"much takes at least .* GB of memory.*take fewer"):
        memory.check_room((free, 10), "much", "take fewer")
    with pytest.raises(InvalidInputError, match="endless GB"):
        memory.check_room((10**400,), "much", "take fewer")


def test_only_an_error_for_want_of_memory_is_called_that() -> None:
    assert memory.out_of_memory(ValueError("x")) is None
    assert "ran out of memory" in str(memory.out_of_memory(MemoryError()))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert "ran out of memory" in str(memory.out_of_memory(caught.value))
