"""The tables of one setting, and how figures are written."""

from collections.abc import Sequence

from benchmarks.common import MIB, table, two_figures
from benchmarks.gradients.estimates import HEAD, estimate_rows
from benchmarks.gradients.registration import Registration
from benchmarks.gradients.summary import TENSORS, Figures, Group, Row


def setting_tables(group: Group, registration: Registration, level: str = "##") -> str:
    """All tables of one setting, under a heading of `level`.

    They are errors against exact and against the converged ODE, errors by metric, and costs.
    """
    rows = sorted(group.rows, key=lambda row: (not row.exact, row.family, _number(row)))
    parts = [
        f"{level} {group.model}, {group.sampler}, N = {group.calls}, guidance {group.guidance:g}"
    ]
    measured = [row for row in rows if row.relative]
    if measured:
        parts += _errors(measured, list(registration.metrics(group.model)))
    estimates = estimate_rows(rows)
    if estimates:
        title = (
            "What the method itself estimated its relative error to be, median; the true error "
            "over the estimate, median (5th to 95th percentile); rank correlation of the two over "
            "pictures and losses."
        )
        parts += [title, table(HEAD, estimates)]
    for part in ("inputs", "lora", "weights"):
        costly = [row for row in rows if part in row.costs]
        if costly:
            parts += [
                _cost_title(part),
                table(_COST_HEAD, [_cost_line(row, part) for row in costly]),
            ]
    failures = [
        f"- `{row.method}` failed {row.failed} times: {row.message}" for row in rows if row.failed
    ]
    return "\n\n".join([*parts, *(["\n".join(failures)] if failures else [])])


def cell(figures: Figures | None) -> str:
    """Median (other quantile), two digits."""
    return "" if figures is None else two_figures(*figures)


def _errors(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    shown = [
        tensor
        for tensor in TENSORS
        if any(key[0] == tensor for row in rows for key in row.relative)
    ]
    parts = [
        "Relative error per picture and metric against the exact gradient of the same steps, "
        "median (95th percentile); cosine, median.",
        _errors_against("exact", rows, shown),
    ]
    by_ode = [row for row in rows if any(key[1] == "ode" for key in row.relative)]
    if by_ode:
        parts += [
            "The same against the gradient of the converged ODE; `Checkpoint()` is the exact "
            "gradient of the steps: the mark.",
            _errors_against("ode", by_ode, shown),
        ]
    by_metric = [
        [
            f"`{row.method}`",
            *(
                cell(row.relative.get((tensor, "exact", metric)))
                for tensor in shown
                for metric in metrics
            ),
        ]
        for row in rows
        if not row.exact
    ]
    if by_metric:
        head = ["method", *(f"{tensor}, {metric}" for tensor in shown for metric in metrics)]
        parts += ["By metric, relative error against exact:", table(head, by_metric)]
    return parts


def _errors_against(reference: str, rows: Sequence[Row], tensors: Sequence[str]) -> str:
    """The table of errors and cosines against "exact" or "ode", a row a method."""
    columns = (f"{tensor}{what}" for tensor in tensors for what in ("", ", cosine"))
    lines = []
    for row in rows:
        pairs = row.pairs if reference == "exact" else row.ode_pairs
        counts = [str(pairs[part]) for part in ("inputs", "weights") if part in pairs]
        line = [f"`{row.method}`", " / ".join(counts)]
        for key in ((tensor, reference, "all") for tensor in tensors):
            cosine = row.cosine.get(key)
            line += [cell(row.relative.get(key)), "" if cosine is None else f"{cosine[0]:.4f}"]
        lines.append(line)
    return table(["method", "pairs", *columns], lines)


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
    text = (
        f"Cost of the gradient for {names[part]}; one picture, loss ½‖x_0‖², medians over rounds, "
        f"each beside full backpropagation."
    )
    return (
        f"{text} The floor is what the method's own c network calls and v VJPs take by themselves, "
        f"cF + vB with F and B measured alone: (N − 1)(2F + B) + F + B for `Checkpoint()`."
    )


def _cost_line(row: Row, part: str) -> list[str]:
    cost = row.costs[part]
    # Whoever keeps no graph of PyTorch's holds something that was not counted.
    size = (
        [f"{cost.bytes_held / MIB:.1f}", f"{cost.bytes_held / max(1, cost.graph_bytes):.1f}"]
        if cost.bytes_held
        else ["", ""]
    )
    ratios = [f"{cost.to_backprop:.2f}", f"{cost.to_forward:.0f}", f"{cost.to_floor:.3f}"]
    return [f"`{row.method}`", str(cost.calls), str(cost.vjps), *ratios, *size, str(cost.rounds)]


def _number(row: Row) -> tuple[float, str]:
    """Methods of a family in the order of the number that they take."""
    digits = "".join(c if c.isdigit() else " " for c in row.method).split()
    return (float(digits[-1]) if digits else 1e9, row.method)
