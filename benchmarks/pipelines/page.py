"""The table of all pipeline classes, from kept results."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks.common import table

SAID = {
    "exact": "exact",
    "zero": "shows nothing",
    "refused": "refused",
    "wrong": "**wrong**",
    "not run": "not run",
}
HEAD = ("class", "gradient", "worst error", "sample differs by", "calls", "gradients of", "why not")


def page_of(kept: Mapping[str, Any]) -> str:
    """Counts, and a table for each family."""
    found = sorted(kept["classes"].values(), key=lambda f: (f["family"], f["name"]))
    counts = Counter(f["status"] for f in found)
    said = ", ".join(f"{counts[status]} {SAID[status]}" for status in SAID if counts[status])
    families = sorted({f["family"] for f in found})
    parts = [
        f"Of {len(found)} classes in {len(families)} families: {said}. Measured on "
        f"{kept['machine']}."
    ]
    for family in families:
        rows = [_row(f) for f in found if f["family"] == family]
        parts.append(f"### {family}\n\n{table(HEAD, rows)}")
    return "\n\n".join(parts)


def _row(found: Mapping[str, Any]) -> list[str]:
    errors, sample, calls = found["errors"], found["sample_error"], found["calls"]
    worst = f"{max(errors.values()):.0e}" if errors else ""
    return [
        found["name"].removesuffix("Pipeline"),
        SAID[found["status"]],
        worst,
        "" if sample is None else f"{sample:.0e}",
        f"{calls[0]} + {calls[1] - calls[0]}" if calls else "",
        ", ".join(_short(errors)),
        found["why"].replace("|", "\\|"),
    ]


def _short(errors: Mapping[str, float]) -> list[str]:
    return [name.removeprefix("weights of ") for name in errors]
