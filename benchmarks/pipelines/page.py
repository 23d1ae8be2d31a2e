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
HEAD = (
    *("class", "sample", "gradient", "worst error", "sample differs by", "calls", "gradients of"),
    *("loaders of", "native", "why not"),
)


def page_of(kept: Mapping[str, Any]) -> str:
    """Counts, and a table for each family."""
    found = sorted(kept["classes"].values(), key=lambda f: (f["family"], f["name"]))
    counts = Counter(f["status"] for f in found)
    said = ", ".join(f"{counts[status]} {SAID[status]}" for status in SAID if counts[status])
    families = sorted({f["family"] for f in found})
    parts = [
        f"Of {len(found)} classes in {len(families)} families: {said}. Native samplers solve "
        f"{sum(_is_native(f) for f in found)} of them. Measured on {kept['machine']}."
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
        "×".join(map(str, found["sample"] or ())),
        SAID[found["status"]],
        worst,
        "" if sample is None else f"{sample:.0e}",
        f"{calls[0]} + {calls[1] - calls[0]}" if calls else "",
        ", ".join(_short(errors)),
        ", ".join(name for name, known in found["artefacts"].items() if known is True),
        "yes" if _is_native(found) else "",
        found["why"].replace("|", "\\|"),
    ]


def _is_native(found: Mapping[str, Any]) -> bool:
    return found["native"].get("all") is True


def _short(errors: Mapping[str, float]) -> list[str]:
    return [name.removeprefix("weights of ") for name in errors]
