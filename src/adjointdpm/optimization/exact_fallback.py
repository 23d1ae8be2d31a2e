"""A second try with the exact gradient, for a run that a cheaper gradient leads nowhere.

A gradient through the last steps only is cheap. It does not see what earlier steps decide, so for
some noises it leads nowhere at all. The run then goes on from the best state, with full steps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MARK = "exact_from_here"  # in the record after which exact gradients are taken


def leads_nowhere(history: Sequence[Mapping[str, Any]], after: int, least: float) -> bool:
    """Whether a run should change to the exact gradient now, after the newest of these records.

    Args:
        history: all records so far.
        after: the iteration after which this is decided, once; 0: never.
        least: how far the objective must have fallen by then.

    """
    if not after or history[-1]["iteration"] != after:
        return False
    looks = [row["validation"]["objective"] for row in history if "validation" in row]
    return looks[0] - min(looks) < least


def changed_after(history: Sequence[Mapping[str, Any]]) -> int:
    """The iteration after which a run changed to the exact gradient; 0 if it did not."""
    return next((row["iteration"] for row in history if row.get(MARK)), 0)
