"""The registered goals, and whether the measurements meet them."""

from collections.abc import Iterator, Sequence

from benchmarks.gradients.registration import Registration
from benchmarks.gradients.summary import Group, Row, judged
from benchmarks.gradients.tables import cell


def goal_rows(groups: Sequence[Group], registration: Registration) -> list[list[str]]:
    """Model, what, measured, the goal, and whether it is met.

    A row without a goal is there to compare.
    """
    goals = registration.content["goals"]
    found = []
    for group in groups:
        if not judged(group, registration):
            continue
        rows = {row.method: row for row in group.rows}
        parts = [
            _checkpoint(rows, goals["checkpoint"]),
            _interpolated(group, rows, goals["interpolated"]),
            _torchdiffeq(rows, goals["torchdiffeq"]),
        ]
        found += [[group.model, *row] for part in parts for row in part]
    return found


def _checkpoint(rows: dict[str, Row], goal: dict[str, float]) -> Iterator[list[str]]:
    for part, cost in rows["Checkpoint()"].costs.items() if "Checkpoint()" in rows else ():
        yield _row(f"time of `Checkpoint()` over its floor, {part}", cost.to_floor, goal["floor"])
        if part == "weights":
            yield _row(
                "the same with the sums of N gradients of all weights in the floor", cost.with_sums
            )
        budgets = [
            row.costs[part]
            for name, row in rows.items()
            if "memory_budget" in name and part in row.costs
        ]
        if budgets:
            largest = max(budgets, key=lambda c: c.bytes_held)
            yield _row(
                f"time with room for all graphs over full backpropagation, {part}",
                largest.to_backprop,
                goal["all_graphs"],
            )


def _interpolated(
    group: Group, rows: dict[str, Row], goals: Sequence[dict[str, float]]
) -> Iterator[list[str]]:
    for goal in goals:
        name = f"Interpolated(vjps={round(goal['share'] * group.calls)})"
        for (tensor, reference, metric), (median, high) in (
            rows[name].relative.items() if name in rows else ()
        ):
            if (reference, metric) == ("exact", "all"):
                limits = (goal["median"], goal["p95"])
                met = median <= limits[0] and high <= limits[1]
                yield [
                    f"error of `{name}`, {tensor}: median (95th percentile)",
                    cell((median, high)),
                    cell(limits),
                    _verdict(met),
                ]


def _torchdiffeq(rows: dict[str, Row], goal: dict[str, float]) -> Iterator[list[str]]:
    def fastest(library: bool) -> tuple[float, str] | None:
        found = [
            (row.costs["weights"].to_backprop, name)
            for name, row in rows.items()
            if ("torchdiffeq" in name) == library
            and "weights" in row.costs
            and (
                row.method == "Checkpoint()"
                or row.relative.get(("weights", "exact", "all"), (1e9, 1e9))[0] <= goal["within"]
            )
        ]
        return min(found, default=None)

    ours, theirs = fastest(False), fastest(True)
    if not any("torchdiffeq" in name for name in rows) or ours is None:
        return
    yield from _as_many_calls(rows)
    if theirs is None:
        key = ("weights", "exact", "all")
        best = min(
            (
                row.relative[key][0]
                for name, row in rows.items()
                if "torchdiffeq" in name and key in row.relative
            ),
            default=None,
        )
        if best is not None:
            yield [
                "error of `torchdiffeq.odeint_adjoint` for weights at its best, nowhere within "
                f"{goal['within']:.0%}",
                f"{best:.2g}",
                "",
                "",
            ]
    else:
        yield _row(
            f"time to a weights gradient within {goal['within']:.0%}, `{ours[1]}` over "
            f"`{theirs[1]}`",
            ours[0] / theirs[0],
            1 / goal["faster"],
        )


def _as_many_calls(rows: dict[str, Row]) -> Iterator[list[str]]:
    """Exact gradients for the weights beside the library's with as many network calls or more."""
    ours, key = rows["Checkpoint()"].costs["weights"], ("weights", "exact", "all")
    for name, row in rows.items():
        if (
            "torchdiffeq" in name
            and "weights" in row.costs
            and key in row.relative
            and row.costs["weights"].calls >= ours.calls
        ):
            theirs = row.costs["weights"]
            what = f"`{name}` ({theirs.calls} calls, off by {row.relative[key][0]:.2g})"
            yield _row(
                f"time of `Checkpoint()` for weights ({ours.calls} calls, exact) over {what}",
                ours.to_backprop / theirs.to_backprop,
            )


def _row(what: str, value: float, limit: float | None = None) -> list[str]:
    goal = ["", ""] if limit is None else [f"{limit:.3g}", _verdict(value <= limit)]
    return [what, f"{value:.3g}", *goal]


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"
