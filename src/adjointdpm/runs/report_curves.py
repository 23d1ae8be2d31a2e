"""The curves of a report, as SVG elements; drawn by matplotlib, which is an extra."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

from adjointdpm.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _ACCENT, _SOFT, _WARM = "#1f2430", "#5b3fa8", "#b7aed6", "#c77d3a"
_STYLES = {
    "training": {"color": _SOFT, "marker": "."},
    "validation": {"color": _ACCENT, "marker": "o", "lw": 2},
}


def optimisation_svg(history: Sequence[dict[str, Any]], best: int) -> str:
    """Metric and structure distance by iteration, on training and on validation examples.

    Args:
        history: the records of the loop.
        best: the iteration whose state was kept.

    Raises:
        InvalidInputError: matplotlib is not installed.

    """
    titles = {
        "metric": "metric (lower: more of the effect)",
        "drift": "structure distance (lower: more of the drawing)",
    }
    with _figure(columns=2) as (figure, panels):
        for axes, (quantity, title) in zip(panels, titles.items(), strict=True):
            for name, style in _STYLES.items():
                points = [
                    (record["iteration"], record[name][quantity])
                    for record in history
                    if quantity in record.get(name, {})
                ]
                if points:
                    axes.plot(*zip(*points, strict=True), label=name, **style)
            axes.axvline(best, color=_INK, lw=0.8, ls=":", label="kept")
            axes.set(xlabel="iteration")
            axes.locator_params("x", integer=True)
            low, high = axes.get_ylim()
            low = min(0, low)
            axes.set_ylim(low, high + 0.04 * (high - low))  # the highest marker shows whole
            axes.set_title(title, fontsize=10, loc="left")
            axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def success_svg(rows: Sequence[dict[str, Any]]) -> str:
    """Success by budget with its interval, and that of random search.

    Raises:
        InvalidInputError: matplotlib is not installed.

    """
    targets = list(dict.fromkeys(row.get("target") for row in rows))
    with _figure(columns=1) as (figure, (axes,)):
        for number, target in enumerate(targets):
            part = [row for row in rows if row.get("target") == target]
            aim = f" to “{target}”" if target is not None else ""
            _success_lines(axes, part, aim, ("-", "-.", ":")[min(number, 2)])
        axes.set(xlabel="budget", ylabel="success, %", ylim=(-3, 103))
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=8)
        return _svg(figure)


def _success_lines(
    axes: "Axes", rows: Sequence[dict[str, Any]], aim: str, gradient_style: str
) -> None:
    """What the attack and the random search of one target reach."""
    budgets, rates = [row["budget"] for row in rows], [100 * row["rate"] for row in rows]
    reach = [
        [rate - 100 * row["interval"][0] for rate, row in zip(rates, rows, strict=True)],
        [100 * row["interval"][1] - rate for rate, row in zip(rates, rows, strict=True)],
    ]
    style = {"color": _ACCENT, "marker": "o", "lw": 2, "capsize": 3, "ls": gradient_style}
    axes.errorbar(budgets, rates, yerr=reach, label=f"along the gradient{aim}", **style)
    searched = [
        (row["budget"], 100 * row["random_search"])
        for row in rows
        if row["random_search"] is not None
    ]
    if searched:
        label = f"random search{aim}, as many forward passes"
        axes.plot(*zip(*searched, strict=True), color=_WARM, marker="s", ls="--", label=label)


@contextmanager
def _figure(columns: int) -> Iterator[tuple["Figure", list["Axes"]]]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InvalidInputError(
            'the curves need matplotlib, which is not installed: pip install "adjointdpm[plots]"'
        ) from error
    with matplotlib.rc_context(
        {
            "svg.hashsalt": "adjointdpm",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 10,
        }
    ):
        figure = Figure(figsize=(8.4, 2.9), layout="constrained")
        panels = list(figure.subplots(1, columns, squeeze=False)[0])
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
        yield figure, panels


def _svg(figure: "Figure") -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue().decode()
    return svg[svg.index("<svg") :]
