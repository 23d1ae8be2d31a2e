"""The pages: an overview, the registered goals, and the tables of all settings."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from benchmarks.common import table
from benchmarks.gradients.goals import goal_rows
from benchmarks.gradients.overview import overview
from benchmarks.gradients.registration import Registration
from benchmarks.gradients.results import Line
from benchmarks.gradients.summary import TENSORS, Group, Row, doubts, judged, others, summarise
from benchmarks.gradients.tables import cell, setting_tables


def markdown(lines: Sequence[Line], registration: Registration, folder: str = "gradients") -> str:
    """Everything between the marks of `docs/gradients.md`.

    `folder` is where its links look for `setting_pages`.
    """
    groups = summarise(lines, registration)
    registered = len(registration.settings()) * len(registration.models)
    fewest = min((len(registration.pairs(model)) for model in registration.models), default=0)
    parts = [
        f"Registration {registration.digest} of {registration.content['date']}; measured on "
        f"{_machines(lines, registration)}.",
        f"Anything was measured in {len(groups)} of {registered} registered settings; {fewest} "
        f"pairs of each model are registered.",
    ]
    stale = others(lines, registration)
    if stale:
        parts.append(
            f"**{stale} measurements were made under another registration and are left out.**"
        )
    compared = {
        "Median relative error for noise / embedding, over pictures and losses, against the exact "
        "gradient of the same steps:": "inputs",
        "The same for a LoRA / all weights:": "weights",
    }
    tables = [
        text
        for title, part in compared.items()
        if (found := overview(groups, registration, part))
        for text in (title, found)
    ]
    parts += ["### Overview", *tables] if tables else []
    parts += [_links(groups, folder)] if groups else []
    goals = goal_rows(groups, registration)
    parts += (
        ["### Registered goals", table(["model", "what", "measured", "goal, at most", ""], goals)]
        if goals
        else []
    )
    parts += [doubt_table(lines, registration)]
    parts += [
        setting_tables(group, registration, "###")
        for group in groups
        if judged(group, registration)
    ]
    return "\n\n".join(part for part in parts if part)


def setting_pages(lines: Sequence[Line], registration: Registration) -> dict[str, str]:
    """A page for each model and sampler, by file name: all tables of its settings."""
    pages: dict[str, list[str]] = {}
    for group in summarise(lines, registration):
        title = (
            f"# {group.model}, {group.sampler}\n\nA part of [the gradient "
            f"benchmark](../gradients.md), which says how to read it."
        )
        pages.setdefault(_page(group), [title]).append(setting_tables(group, registration))
    return {name: "\n\n".join(parts) + "\n" for name, parts in pages.items()}


def _machines(lines: Sequence[Line], registration: Registration) -> str:
    found = {
        line["machine"]
        for line in lines
        if line["kind"] == "run" and line["registration"] == registration.digest
    }
    return "; ".join(sorted(found)) or "a machine not stated"


def _page(group: Group) -> str:
    return f"{group.model}-{group.sampler}.md"


def _links(groups: Sequence[Group], folder: str) -> str:
    names = dict.fromkeys((_page(group), f"{group.model}, {group.sampler}") for group in groups)
    return (
        "All methods in every setting: "
        + "; ".join(f"[{text}]({folder}/{page})" for page, text in names)
        + "."
    )


def doubt_table(lines: Sequence[Line], registration: Registration) -> str:
    """How well the converged solution has converged."""
    found = doubts(lines, registration)
    if not found:
        return ""
    steps = registration.content["references"]["ode_steps"]
    rows = []
    for model, guidance, calls in dict.fromkeys(key[:3] for key in found):
        cells = [cell(found.get((model, guidance, calls, tensor))) for tensor in TENSORS]
        rows.append([model, str(calls), f"{guidance:g}", *cells])
    head = ["model", "N", "guidance", *TENSORS]
    title = (
        f"The converged ODE gradient is that of RK4 with {steps} steps. Relative difference to "
        f"{steps // 2} steps, median (95th percentile): errors against it that are not larger say "
        f"nothing."
    )
    return f"{title}\n\n{table(head, rows)}"


def as_json(lines: Sequence[Line], registration: Registration) -> dict[str, Any]:
    """The same figures for programs."""
    return {
        "registration": registration.digest,
        "machines": sorted({line["machine"] for line in lines if line["kind"] == "run"}),
        "other_registrations": others(lines, registration),
        "doubts": [
            {
                "model": model,
                "guidance": guidance,
                "calls": calls,
                "tensor": tensor,
                "median": values[0],
                "p95": values[1],
            }
            for (model, guidance, calls, tensor), values in doubts(lines, registration).items()
        ],
        "settings": [
            {
                "model": group.model,
                "sampler": group.sampler,
                "guidance": group.guidance,
                "calls": group.calls,
                "registered_pairs": len(registration.pairs(group.model)),
                "methods": [_row_json(row) for row in group.rows],
            }
            for group in summarise(lines, registration)
        ],
    }


def _row_json(row: Row) -> dict[str, Any]:
    names = ("median", "p95", "cosine_median", "cosine_p5")
    errors = [
        # JSON has no infinity.
        {"tensor": t, "reference": r, "metric": m}
        | {n: v if isfinite(v) else None for n, v in zip(names, values, strict=True)}
        for (t, r, m), values in (
            (key, (*row.relative[key], *row.cosine[key])) for key in row.relative
        )
    ]
    costs = {part: vars(cost) for part, cost in row.costs.items()}
    estimates = [
        {"estimate": estimate, "errors": {t: v if isfinite(v) else None for t, v in true.items()}}
        for estimate, true in row.estimates
    ]
    return {
        "method": row.method,
        "family": row.family,
        "pairs": row.pairs,
        "failed": row.failed,
        "errors": errors,
        "estimates": estimates,
        "costs": costs,
    }
