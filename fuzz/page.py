"""The tables of docs/faults.md."""

from datetime import UTC, datetime
from typing import Any

from benchmarks.common import machine, table, write_results
from fuzz.drawing import kind
from fuzz.verdict import FAULTS, GOOD

RESULTS = "faults"


def kept_beside(before: dict[str, Any] | None, counted: dict[str, Any]) -> dict[str, Any]:
    """Keep what was counted, beside the first counts of each kind; returns both.

    Args:
        before: what was kept until now; kinds that were not run again stay as they are there.
        counted: seed, seconds and counts of this run.

    """
    counted |= {"date": datetime.now(UTC).date().isoformat(), "machine": machine()}
    first = latest = counted
    if before is not None:
        latest = counted | {
            "kinds": before["latest"]["kinds"] | counted["kinds"],
            "seconds": before["latest"]["seconds"] + counted["seconds"],
        }
        first = before["first"] | {"kinds": counted["kinds"] | before["first"]["kinds"]}
    kept = {"first": first, "latest": latest}
    write_results(RESULTS, kept)
    return kept


def page_of(kept: dict[str, Any]) -> str:
    """What came of the cases: now, and when they were first run."""
    if kept["first"] == kept["latest"]:
        return _section("At first", kept["first"])
    return f"{_section('Now', kept['latest'])}\n\n{_section('At first', kept['first'])}"


def _section(title: str, counted: dict[str, Any]) -> str:
    kinds: dict[str, dict[str, int]] = counted["kinds"]
    ends = (*GOOD, *FAULTS)
    rows = [_row(kind(name).TITLE, found, ends) for name, found in kinds.items()]
    total = {end: sum(found.get(end, 0) for found in kinds.values()) for end in ends}
    rows.append(_row("**all**", total, ends))
    faults = sum(total[end] for end in FAULTS)
    cases = sum(total.values())
    return (
        f"**{title}**, {counted['date']}: {faults} of {cases} cases end in a fault.\n\n"
        f"{table(['inputs', 'cases', *ends], rows)}\n\n"
        f"Seed {counted['seed']}, {counted['seconds'] / 60:.0f} minutes on {counted['machine']}."
    )


def _row(title: str, found: dict[str, int], ends: tuple[str, ...]) -> list[str]:
    return [title, str(sum(found.values())), *(str(found.get(end, 0)) for end in ends)]
