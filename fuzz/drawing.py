"""Which cases there are: hypothesis draws them from a seed, and nothing is run meanwhile."""

import json
from importlib import import_module
from random import Random
from types import ModuleType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

#: Kinds, and how many cases of each a full run has.
KINDS = {
    "command_lines": 800,
    "configs": 300,
    "run_folders": 400,
    "model_folders": 200,
    "pictures": 150,
    "prompt_files": 100,
    "metric_files": 150,
    "python_values": 300,
}


def kind(name: str) -> ModuleType:
    """The module of a kind."""
    return import_module(f"fuzz.kinds.{name}")


def draw(name: str, count: int, from_seed: int) -> list[dict[str, Any]]:
    """So many different cases of a kind; the same from the same seed.

    Args:
        name: of the kind.
        count: how many.
        from_seed: what hypothesis draws them from.

    """
    found: dict[str, dict[str, Any]] = {}

    @seed(from_seed)
    @settings(
        max_examples=2 * count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],  # pyright: ignore[reportArgumentType]
    )
    # Whole cases from a generator's seed: hypothesis would vary parts of the cases that it had.
    @given(st.randoms(use_true_random=True).map(kind(name).cases))
    def collect(case: dict[str, Any]) -> None:
        found.setdefault(json.dumps(case), case)

    kind(name).cases(Random(from_seed))  # what it imports may draw random numbers of its own
    collect()
    return list(found.values())[:count]
