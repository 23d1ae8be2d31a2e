"""The page on runs that were killed, from kept results."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import table

_HEAD = (
    "task",
    "seconds unkilled",
    "runs",
    "kills",
    "before anything was saved",
    "came out the same",
)


def page_of(kept: Mapping[str, Any]) -> str:
    """Counts by task, and what differed."""
    series = kept["series"]
    killed = [one for one in series if one["kills"]]
    total, same = sum(len(one["kills"]) for one in killed), _same(killed)
    unkilled = [one for one in series if not one["kills"]]
    parts = [
        f"{total} processes were killed in {len(killed)} runs; {same} of the {len(killed)} came "
        f"out the same as a run that nobody killed, and {_same(unkilled)} of {len(unkilled)} "
        f"that were merely run a second time. Measured on {kept['date']}, on {kept['machine']}.",
        table(_HEAD, [_row(task, kept) for task in kept["seconds"]]),
    ]
    faults = [one for one in series if one["end"] != "same"]
    parts += [f"- {one['task']}, seed {one['seed']}: {one['end']}: {one['why']}" for one in faults]
    return "\n\n".join(parts)


def _row(task: str, kept: Mapping[str, Any]) -> list[str]:
    mine = [one for one in kept["series"] if one["task"] == task and one["kills"]]
    saved = [value for one in mine for value in one["saved"]]
    return [
        task,
        f"{kept['seconds'][task]:.0f}",
        str(len(mine)),
        str(len(saved)),
        str(saved.count(False)),
        f"{_same(mine)} of {len(mine)}",
    ]


def _same(series: Sequence[Mapping[str, Any]]) -> int:
    return sum(one["end"] == "same" for one in series)
