"""`report.html`: one file without network access, for a reader who was not there; made from what lies in the run folder."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from matplotlib.figure import Figure

from adjointdpm.errors import OutputError
from adjointdpm.files import write_text
from adjointdpm.run_folder import RunFolder

_TEMPLATE = Path(__file__).parent / "report.html.jinja"
_INK, _ACCENT, _SOFT = "#1f2430", "#5b3fa8", "#b7aed6"


def write_report(folder: RunFolder) -> Path:
    """Write `report.html` from `result.json`, `history.jsonl` and `images/`; returns its path.

    Raises:
        OutputError: the folder holds no finished run, or the file cannot be written.

    """
    path = folder.path / "result.json"
    try:
        result = json.loads(path.read_text())
        pictures = [row | {view: _data_uri(folder.path / row[view]) for view in ("before", "word", "after")} for row in result["pictures"]]
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"{folder.path} holds no finished run ({error}); run the task to its end first") from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": "{:.3f}".format, "percent": "{:.0%}".format, "bytes": _bytes}
    html = environment.from_string(_TEMPLATE.read_text()).render(
        result=result,
        config=result["config"],
        held_out=result["held_out"],
        pictures=pictures,
        curve=curve_svg(folder.read_history(), result["optimisation"]["best_iteration"]),
    )
    return write_text(folder.path / "report.html", html)


def curve_svg(history: list[dict[str, Any]], best: int) -> str:
    """Objective and metric by iteration, training minibatches and validation, as an SVG element."""
    with matplotlib.rc_context({"svg.hashsalt": "adjointdpm", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}):
        figure = Figure(figsize=(8.4, 2.9), layout="constrained")
        for axes, quantity, title in zip(
            figure.subplots(1, 2),
            ("metric", "drift"),
            ("metric (lower: more of the effect)", "structure distance (lower: more of the drawing)"),
            strict=True,
        ):
            for name, style in {
                "training": {"color": _SOFT, "marker": "."},
                "validation": {"color": _ACCENT, "marker": "o", "lw": 2},
            }.items():
                points = [(record["iteration"], record[name][quantity]) for record in history if name in record]
                if points:
                    axes.plot(*zip(*points, strict=True), label=name, **style)
            axes.axvline(best, color=_INK, lw=0.8, ls=":", label="kept")
            axes.set(xlabel="iteration", ylim=(0, None))
            axes.set_title(title, fontsize=10, loc="left")
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, fontsize=8)
        buffer = BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue().decode()
    return svg[svg.index("<svg") :]


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
