"""A second try with the exact gradient, for a run that a cheaper gradient leads nowhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MARK = "exact_from_here"  # in the record after which exact gradients are taken


@dataclass(frozen=True)
class ExactFallback:
    """When a run goes on with the exact gradient, from the best state and with full steps.

    A gradient through the last steps only is cheap. It does not see what earlier steps decide, so
    for some noises it leads nowhere at all.

    Args:
        after: the iteration after which this is decided, once; 0: never.
        least: how far the objective must have fallen by then.

    """

    after: int
    least: float

    def due(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether to change now, after the newest of these records."""
        if not self.after or history[-1]["iteration"] != self.after:
            return False
        looks = [row["validation"]["objective"] for row in history if "validation" in row]
        return looks[0] - min(looks) < self.least


def changed_after(history: Sequence[Mapping[str, Any]]) -> int:
    """The iteration after which a run changed to the exact gradient; 0 if it did not."""
    return next((row["iteration"] for row in history if row.get(MARK)), 0)
