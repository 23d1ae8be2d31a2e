"""Error against cost, and the methods that nothing beats in both."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

from adjointdpm.errors import OutputError
from adjointdpm.support.files import write_bytes
from benchmarks.gradients.registration import Registration
from benchmarks.gradients.summary import TENSORS, Group, Row, judged

LOWEST = 1e-7  # where errors of exact methods are drawn


def draw(groups: Sequence[Group], path: Path, registration: Registration) -> Path | None:
    """One panel a model and tensor, of `shown`'s settings; None without anything to draw.

    Cost is time over that of full backpropagation where it was measured for most methods and these
    tensors, else network work counted as calls + 2 VJPs over 3N; the axis says which.
    """
    panels = [
        (group, tensor)
        for group in shown(groups, registration)
        for tensor in TENSORS
        if any(_error(row, tensor) is not None for row in group.rows)
    ]
    if not panels:
        return None
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "adjointdpm", "font.size": 8})
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4.6 * columns, 3.4 * lines), squeeze=False
    )
    families = sorted({row.family for group, _ in panels for row in group.rows})
    hues = pyplot.colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    # without grey, the front's
    colours = dict(zip(families, (*hues[:7], *hues[8:], "black"), strict=False))
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (group, tensor) in zip(axes.flat, panels, strict=False):
        _panel(axis, group, tensor, families, colours)
    found = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), ncols=4, loc="lower center")
    figure.tight_layout(rect=(0, 0.3 / lines / 3.4 + 0.04, 1, 1))
    kind = path.suffix.lstrip(".") or "svg"
    content = _bytes(figure, kind)
    pyplot.close(figure)
    return write_bytes(path, content)


def _panel(
    axis: Any, group: Group, tensor: str, families: Sequence[str], colours: dict[str, Any]
) -> None:
    """Error against cost of all methods in one setting for one tensor."""
    errors = [(row, error) for row in group.rows if (error := _error(row, tensor)) is not None]
    measured = 2 * sum(_part(tensor) in row.costs for row, _ in errors) > len(errors)
    points = [
        (work, error, row)
        for row, error in errors
        if (work := _work(row, tensor, group, measured)) is not None
    ]
    for family in families:
        own = [(x, y) for x, y, row in points if row.family == family]
        if own:
            colour = colours.get(family, "grey")
            axis.scatter(*zip(*own, strict=True), s=16, color=colour, label=family)
    costs, lowest = (
        zip(*pareto([(x, y) for x, y, _ in points]), strict=True) if points else ((), ())
    )
    axis.step(costs, lowest, where="post", color="grey", linewidth=0.8, zorder=0)
    axis.set_yscale("log")
    axis.set_xlabel(
        "time / full backpropagation"
        if measured
        else "network work / full backpropagation (calls + 2 VJPs)"
    )
    axis.set_ylabel("median relative error against exact")
    axis.set_title(
        f"{group.model}: {tensor}; {group.sampler}, N = {group.calls}, guidance {group.guidance:g}",
        fontsize=8,
    )
    axis.grid(alpha=0.3)


def shown(groups: Sequence[Group], registration: Registration) -> list[Group]:
    """Of each model the setting in which goals are judged, or else the one with most pictures."""
    models = dict.fromkeys(group.model for group in groups)
    return [
        max(
            (g for g in groups if g.model == model),
            key=lambda g: (judged(g, registration), _pictures(g)),
        )
        for model in models
    ]


def check_figure(path: Path) -> None:
    """Check that a figure can be drawn into this file.

    Raises:
        OutputError: its ending is that of no picture.

    """
    known = sorted(pyplot.figure().canvas.get_supported_filetypes())
    pyplot.close()
    if path.suffix.lstrip(".") not in known:
        raise OutputError(
            f"the figure {path} must end in .svg, .png or another of {', '.join(known)}"
        )


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other point beats in both cost and error, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, error in sorted(points):
        if not front or error < front[-1][1]:
            front.append((cost, error))
    return front


def _bytes(figure: pyplot.Figure, kind: str) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _pictures(group: Group) -> tuple[int, int]:
    return max(
        (sum(row.pairs.values()) for row in group.rows if not row.exact), default=0
    ), group.calls


def _error(row: Row, tensor: str) -> float | None:
    figures = row.relative.get((tensor, "exact", "all"))
    return None if figures is None or figures[0] == float("inf") else max(figures[0], LOWEST)


def _part(tensor: str) -> str:
    return "inputs" if tensor in ("noise", "embedding") else tensor


def _work(row: Row, tensor: str, group: Group, measured: bool) -> float | None:
    if measured:
        cost = row.costs.get(_part(tensor))
        return None if cost is None else cost.to_backprop
    if row.method == "Checkpoint()":
        return (2 * group.calls - 1 + 2 * group.calls) / (3 * group.calls)
    return (
        None
        if row.calls is None or row.vjps is None
        else (row.calls + 2 * row.vjps) / (3 * group.calls)
    )
