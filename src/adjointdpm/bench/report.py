"""The page: tables, what they cover, and what they say about the registered goals."""

import os
import platform
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from adjointdpm.bench.goals import goal_lines
from adjointdpm.bench.registration import Registration
from adjointdpm.bench.results import Line
from adjointdpm.bench.summary import TENSORS, Figures, Group, Row, doubts, others, summarise
from adjointdpm.errors import OutputError
from adjointdpm.files import write_text
from adjointdpm.measure import versions

MIB = 2**20
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PARTS = {"noise": "inputs", "embedding": "inputs", "lora": "weights", "weights": "weights"}


def machine(device: str = "cpu") -> str:
    """One line on what measures here."""
    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        name = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")), name)
    if torch.device(device).type == "cuda":
        name = f"{torch.cuda.get_device_name(device)} beside {name}"
    found = ", ".join(f"{package} {version}" for package, version in versions().items())
    return f"{name}, {os.cpu_count()} cores of which {torch.get_num_threads()} used, {found}"


def markdown(lines: Sequence[Line], registration: Registration) -> str:
    """Everything between the marks of `docs/gradients.md`."""
    groups = summarise(lines, registration)
    machines = "; ".join(
        sorted({line["machine"] for line in lines if line["kind"] == "run" and line["registration"] == registration.digest})
    )
    parts = [
        f"Registration {registration.digest} of {registration.content['date']}; measured on {machines or 'a machine not stated'}.",
        coverage(groups, registration),
    ]
    stale = others(lines, registration)
    if stale:
        parts.append(f"**{stale} measurements were made under another registration and are left out.**")
    parts += [doubt_table(lines, registration), *(section(group, registration) for group in groups)]
    goals = "\n".join(goal_lines(groups, registration))
    parts += [f"### Registered goals\n\n{goals}"] if goals else []
    return "\n\n".join(part for part in parts if part)


def coverage(groups: Sequence[Group], registration: Registration) -> str:
    """How much of what was registered was measured."""
    registered = {model: len(registration.pairs(model)) for model in registration.models}
    rows = []
    for group in groups:
        for part in ("inputs", "weights"):
            counts = [row.pairs.get(part, 0) for row in group.rows if not row.exact and any(row.pairs.values())]
            if counts:
                fewest, most = min(counts), max(counts)
                found = f"{most}" if fewest == most else f"{fewest} to {most}"
                name = "noise, embedding" if part == "inputs" else "LoRA, weights"
                rows.append([*_where(group), name, f"{found} of {registered[group.model]}"])
    settings = len(registration.settings()) * len(registration.models)
    head = ["model", "sampler", "N", "guidance", "gradients for", "pairs measured of those registered"]
    text = f"Anything was measured in {len(groups)} of {settings} registered settings."
    return f"{text}\n\n{table(head, rows)}" if rows else text


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
        f"The converged ODE gradient is that of RK4 with {steps} steps. Relative difference to {steps // 2} steps, median (95th "
        "percentile): errors against it that are not larger say nothing."
    )
    return f"{title}\n\n{table(head, rows)}"


def section(group: Group, registration: Registration) -> str:
    """The tables of one setting."""
    rows = sorted(group.rows, key=lambda row: (not row.exact, row.family, _number(row)))
    sampler, calls, guidance = _where(group)[1:]
    parts = [f"### {group.model}, {sampler}, N = {calls}, guidance {guidance}"]
    measured = [row for row in rows if row.relative]
    metrics = list(registration.metrics(group.model))
    if measured:
        shown = [tensor for tensor in TENSORS if any(key[0] == tensor for row in measured for key in row.relative)]
        text = (
            "Relative error per picture and metric against the exact gradient of the same steps, median (95th percentile); cosine, median."
        )
        head = ["method", "pairs", *(f"{tensor}{what}" for tensor in shown for what in ("", ", cosine"))]
        lines = [[f"`{row.method}`", _pairs(row), *_against(row, shown, "exact")] for row in measured]
        parts += [text, table(head, lines)]
        by_ode = [row for row in measured if any(key[1] == "ode" for key in row.relative)]
        if by_ode:
            text = "The same against the gradient of the converged ODE; `Checkpoint()` is the exact gradient of the steps: the mark."
            parts += [text, table(head, [[f"`{row.method}`", _pairs(row), *_against(row, shown, "ode")] for row in by_ode])]
        lines = [
            [f"`{row.method}`", *(cell(row.relative.get((tensor, "exact", metric))) for tensor in shown for metric in metrics)]
            for row in measured
            if not row.exact
        ]
        head = ["method", *(f"{tensor}, {metric}" for tensor in shown for metric in metrics)]
        parts += ["By metric, relative error against exact:", table(head, lines)]
    for part in ("inputs", "lora", "weights"):
        costly = [row for row in rows if part in row.costs]
        if costly:
            parts += [_cost_title(part), table(_COST_HEAD, [_cost_line(row, part) for row in costly])]
    failures = [f"- `{row.method}` failed {row.failed} times: {row.message}" for row in rows if row.failed]
    return "\n\n".join([*parts, *(["\n".join(failures)] if failures else [])])


def fill(page: Path, content: str) -> None:
    """Put `content` between the two marks of a page; what is written around them stays.

    Raises:
        OutputError: the page has not both of them once.

    """
    text = page.read_text("utf-8") if page.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise OutputError(f"{page} needs the marks {BEGIN} and {END}, once each")
    write_text(page, f"{text.split(BEGIN)[0]}{BEGIN}\n\n{content}\n\n{END}{text.split(END)[1]}")


def as_json(lines: Sequence[Line], registration: Registration) -> dict[str, Any]:
    """The same figures for programs."""
    return {
        "registration": registration.digest,
        "machines": sorted({line["machine"] for line in lines if line["kind"] == "run"}),
        "other_registrations": others(lines, registration),
        "doubts": [
            {"model": model, "guidance": guidance, "calls": calls, "tensor": tensor, "median": values[0], "p95": values[1]}
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def cell(figures: Figures | None) -> str:
    """Median (other quantile), two digits."""
    return "" if figures is None else f"{figures[0]:.2g} ({figures[1]:.2g})"


def _row_json(row: Row) -> dict[str, Any]:
    names = ("median", "p95", "cosine_median", "cosine_p5")
    errors = [
        # JSON has no infinity.
        {"tensor": t, "reference": r, "metric": m} | {n: v if isfinite(v) else None for n, v in zip(names, values, strict=True)}
        for (t, r, m), values in ((key, (*row.relative[key], *row.cosine[key])) for key in row.relative)
    ]
    costs = {part: vars(cost) for part, cost in row.costs.items()}
    return {"method": row.method, "family": row.family, "pairs": row.pairs, "failed": row.failed, "errors": errors, "costs": costs}


def _against(row: Row, tensors: Sequence[str], reference: str) -> list[str]:
    cells = []
    for tensor in tensors:
        cosine = row.cosine.get((tensor, reference, "all"))
        cells += [cell(row.relative.get((tensor, reference, "all"))), "" if cosine is None else f"{cosine[0]:.4f}"]
    return cells


def _pairs(row: Row) -> str:
    return " / ".join(str(row.pairs[part]) for part in ("inputs", "weights") if part in row.pairs)


_COST_HEAD = [
    "method",
    "network calls",
    "VJPs",
    "time / full backpropagation",
    "time / one forward",
    "time / its calls and VJPs",
    "held, MiB",
    "graphs",
    "rounds",
]


def _cost_title(part: str) -> str:
    names = {"inputs": "noise and embedding", "lora": "a LoRA", "weights": "all weights"}
    text = f"Cost of the gradient for {names[part]}; one picture, loss ½‖x_0‖², medians over rounds, each beside full backpropagation."
    return (
        f"{text} The floor is what the method's own c network calls and v VJPs take by themselves, cF + vB with F and B measured alone: "
        "(N − 1)(2F + B) + F + B for `Checkpoint()`."
    )


def _cost_line(row: Row, part: str) -> list[str]:
    cost = row.costs[part]
    size = [f"{cost.bytes_held / MIB:.1f}", f"{cost.bytes_held / max(1, cost.graph_bytes):.1f}"]
    ratios = [f"{cost.to_backprop:.2f}", f"{cost.to_forward:.0f}", f"{cost.to_floor:.3f}"]
    return [f"`{row.method}`", str(cost.calls), str(cost.vjps), *ratios, *size, str(cost.rounds)]


def _where(group: Group) -> list[str]:
    return [group.model, group.sampler, str(group.calls), f"{group.guidance:g}"]


def _number(row: Row) -> tuple[float, str]:
    """Methods of a family in the order of the number that they take."""
    digits = "".join(c if c.isdigit() else " " for c in row.method).split()
    return (float(digits[-1]) if digits else 1e9, row.method)
