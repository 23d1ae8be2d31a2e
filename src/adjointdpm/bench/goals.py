"""The registered goals, and whether the measurements meet them."""

from collections.abc import Iterator, Sequence

from adjointdpm.bench.registration import Registration
from adjointdpm.bench.summary import Group, Row


def goal_lines(groups: Sequence[Group], registration: Registration) -> Iterator[str]:
    """One line a goal and setting in which it can be judged."""
    goals = registration.content["goals"]
    where = goals["judged_at"]
    for group in groups:
        if (group.sampler, group.calls, group.guidance) != (where["sampler"], where["calls"], where["guidance"]):
            continue
        rows = {row.method: row for row in group.rows}
        yield from _checkpoint(group.model, rows, goals["checkpoint"])
        yield from _interpolated(group, rows, goals["interpolated"])
        yield from _torchdiffeq(group.model, rows, goals["torchdiffeq"])


def _checkpoint(model: str, rows: dict[str, Row], goal: dict[str, float]) -> Iterator[str]:
    for part, cost in rows["Checkpoint()"].costs.items() if "Checkpoint()" in rows else ():
        yield _line(model, f"`Checkpoint()` against its floor, {part}", cost.to_floor, goal["floor"])
        if part == "weights":
            yield f"- {model}: with the sums of N gradients of all weights counted, which are no part of that floor, {cost.with_sums:.3g}"
        budgets = [row.costs[part] for name, row in rows.items() if "memory_budget" in name and part in row.costs]
        if budgets:
            largest = max(budgets, key=lambda c: c.bytes_held)
            yield _line(model, f"the largest memory budget against full backpropagation, {part}", largest.to_backprop, goal["all_graphs"])


def _interpolated(group: Group, rows: dict[str, Row], goals: Sequence[dict[str, float]]) -> Iterator[str]:
    for goal in goals:
        name = f"Interpolated(vjps={round(goal['share'] * group.calls)})"
        for (tensor, reference, metric), (median, high) in rows[name].relative.items() if name in rows else ():
            if (reference, metric) == ("exact", "all"):
                yield _line(group.model, f"`{name}`, {tensor}: median error", median, goal["median"])
                yield _line(group.model, f"`{name}`, {tensor}: 95th percentile", high, goal["p95"])


def _torchdiffeq(model: str, rows: dict[str, Row], goal: dict[str, float]) -> Iterator[str]:
    def fastest(library: bool) -> tuple[float, str] | None:
        found = [
            (row.costs["weights"].to_backprop, name)
            for name, row in rows.items()
            if ("torchdiffeq" in name) == library
            and "weights" in row.costs
            and (row.method == "Checkpoint()" or row.relative.get(("weights", "exact", "all"), (1e9, 1e9))[0] <= goal["within"])
        ]
        return min(found, default=None)

    ours, theirs = fastest(False), fastest(True)
    if not any("torchdiffeq" in name for name in rows) or ours is None:
        return
    yield from _as_many_calls(model, rows)
    if theirs is None:
        nowhere = f"`torchdiffeq.odeint_adjoint` is nowhere within {goal['within']:.0%} of exact for weights"
        yield f"- {model}: {nowhere}; `{ours[1]}` is the fastest that is"
    else:
        yield _line(model, f"time to a weights gradient, `{ours[1]}` over `{theirs[1]}`", ours[0] / theirs[0], 1 / goal["faster"])


def _as_many_calls(model: str, rows: dict[str, Row]) -> Iterator[str]:
    """Exact gradients for the weights beside the library's with as many network calls or more."""
    ours, key = rows["Checkpoint()"].costs["weights"], ("weights", "exact", "all")
    for name, row in rows.items():
        if "torchdiffeq" in name and "weights" in row.costs and key in row.relative and row.costs["weights"].calls >= ours.calls:
            theirs = row.costs["weights"]
            time, error = ours.to_backprop / theirs.to_backprop, row.relative[key][0]
            yield (
                f"- {model}: with {ours.calls} network calls `Checkpoint()` is exact for weights, and takes {time:.2f} of the time of "
                f"`{name}` ({theirs.calls} calls), which is off by {error:.2g}"
            )


def _line(model: str, what: str, value: float, limit: float) -> str:
    return f"- {model}: {what} {value:.3g}, goal at most {limit:.3g}: {'met' if value <= limit else '**not met**'}"
