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


def optimisation_svg(history: Sequence[dict[str, Any]], best: int, sign: int = 1) -> str:
    """Metric and what is held by iteration, on training and on validation examples.

    Args:
        history: the records of the loop.
        best: the iteration whose state was kept.
        sign: −1 for a reward, which is shown as such.

    Raises:
        InvalidInputError: matplotlib is not installed.

    """
    titles = {"metric": f"metric ({'higher' if sign < 0 else 'lower'}: more of the effect)"}
    if any("misfit" in record.get(name, {}) for record in history for name in _STYLES):
        titles["misfit"] = "misfit to the prompt (0: the model takes the picture for it)"
    else:
        titles["drift"] = "structure distance (lower: more of the drawing)"
    signs = {"metric": sign, "drift": 1, "misfit": 1}
    with _figure(columns=2) as (figure, panels):
        for axes, (quantity, title) in zip(panels, titles.items(), strict=True):
            for name, style in _STYLES.items():
                points = [
                    (record["iteration"], signs[quantity] * record[name][quantity])
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


def strength_svg(found: dict[str, Any], direction: str) -> str:
    """What the effect costs: metric, guard, diversity and drift by strength.

    Args:
        found: "strength" of a result.
        direction: which way the metric is better, in words.

    Raises:
        InvalidInputError: matplotlib is not installed.

    """
    rows = found["curve"]
    with _figure(columns=2) as (figure, (gain, cost)):
        strengths, scores = ([row[name] for row in rows] for name in ("strength", "metric"))
        gain.plot(strengths, scores, color=_ACCENT, marker="o", lw=2)
        gain.axvline(found["chosen"], color=_INK, lw=0.8, ls=":", label="kept")
        gain.set(xlabel="strength")
        gain.set_title(f"metric ({direction})", fontsize=10, loc="left")
        gain.legend(frameon=False, fontsize=8)
        titles = {"guard": "guard", "diversity": "diversity", "kl": "drift"}
        for name, color in zip(titles, (_WARM, _ACCENT, _SOFT), strict=True):
            values = [row.get(name) for row in rows]
            if None not in values:
                cost.plot(strengths, values, color=color, marker="o", lw=2, label=titles[name])
        if "guard_limit" in found:
            cost.axhline(found["guard_limit"], color=_WARM, lw=0.8, ls="--", label="guard's limit")
        cost.axvline(found["chosen"], color=_INK, lw=0.8, ls=":")
        cost.set(xlabel="strength")
        cost.set_title("what it costs", fontsize=10, loc="left")
        cost.legend(frameon=False, fontsize=8)
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
            "text.parse_math": False,  # labels name what others called so
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
