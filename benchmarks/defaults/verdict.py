"""Whether a cell succeeded, and if not, why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: What a cell may take, in seconds.
LIMIT = 300
#: Share of what the grid's best run gains that a cell must gain.
LEAST_SHARE = 0.6
#: How far the judge's share may fall.
MOST_LOST = 0.1
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Verdict:
    """What was found out about a cell.

    Args:
        reasons: why it failed; none if it passed.
        share: of what the grid's best run gains; None without a grid run that keeps the subjects.
        share_of_all: of all that there is to gain, down to the least value of the metric. Whatever
            a grid may find, the share of it is at least this; None if it is not known.
        share_of_any: the same, of the best of all runs, also of those that lose the subjects.
        grid_runs: runs of the grid that were made.
        grid_size: runs of the whole grid.

    """

    reasons: list[str]
    share: float | None
    share_of_any: float | None
    grid_runs: int
    grid_size: int
    share_of_all: float | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing was found against it."""
        return not self.reasons

    @property
    def enough(self) -> bool | None:
        """Whether it gains enough of what the grid's best run gains; None if nothing tells."""
        if self.share is not None and (self.complete or self.share < LEAST_SHARE):
            return self.share >= LEAST_SHARE
        return True if (self.share_of_all or 0.0) >= LEAST_SHARE else None

    @property
    def complete(self) -> bool:
        """Whether the cell's whole grid was run."""
        return self.grid_runs == self.grid_size


def verdict(
    facts: Mapping[str, Any],
    grid: Sequence[Mapping[str, Any]],
    size: int,
    least: float | None = None,
) -> Verdict:
    """Judge a cell.

    Args:
        facts: of its default run; see `facts_of`.
        grid: of the runs of its grid that were made.
        size: runs of the whole grid.
        least: what the metric cannot be below.

    """
    measured = [run for run in grid if "before" in run]
    keeping = _share(facts, [run for run in measured if keeps_subjects(run)])
    of_all = None
    if least is not None and "change" in facts and facts["before"] > least:
        of_all = -facts["change"] / (facts["before"] - least)
    found = keeping, _share(facts, measured), len(grid), size, of_all
    return Verdict(_reasons(facts, keeping), *found)


def keeps_subjects(facts: Mapping[str, Any]) -> bool:
    """Whether the judge's share falls by no more than it may; without a judge nothing is known."""
    before, after = facts.get("recognised") or (0.0, 0.0)
    return before - after <= MOST_LOST + _ROUNDING


def quiet_seconds(facts: Mapping[str, Any]) -> float:
    """What a run takes at most where nothing else runs.

    The clock also counts what a process waits for others. Its processor time is what it takes on
    one core.
    """
    return min(facts["seconds"], facts["cpu_seconds"])


def _reasons(facts: Mapping[str, Any], share: float | None) -> list[str]:
    if facts["code"] is None:
        return [f"stopped at the time limit of {facts['limit']:.0f} s"]
    if facts["code"] or "before" not in facts:
        return [f"exit code {facts['code']}: {facts['error']}"]
    reasons = []
    if (taken := quiet_seconds(facts)) > LIMIT:
        reasons.append(f"takes {taken:.0f} s")
    low, high = facts["interval"]
    if not high < 0:
        reasons.append(
            f"no gain: the change is {facts['change']:+.3f}, from {low:+.3f} to {high:+.3f}"
        )
    elif share is not None and share < LEAST_SHARE:
        reasons.append(f"{share:.0%} of what the grid's best run gains")
    if not keeps_subjects(facts):
        before, after = facts["recognised"]
        reasons.append(f"the judge finds the subject in {after:.0%} instead of {before:.0%}")
    return reasons


def _share(facts: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> float | None:
    """The cell's gain, as a share of the largest one; None if no run gained anything."""
    best = max((-run["change"] for run in runs), default=0.0)
    return -facts["change"] / best if "change" in facts and best > 0 else None
