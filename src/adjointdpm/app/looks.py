"""What the learning tabs show: pictures of every look, curves, and what came out."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adjointdpm.app.markup import curves, figure, grid, note, picture
from adjointdpm.app.run_view import RunView

_MOST = 24  # held-out pictures that are shown


def points(history: Sequence[dict[str, Any]], name: str, sign: int = 1) -> list[tuple[int, float]]:
    """A value of all looks, by iteration."""
    return [
        (record["iteration"], sign * record["validation"][name])
        for record in history
        if name in record.get("validation", {})
    ]


def looks_of(view: RunView) -> str:
    """The validation pictures before, and at the last look."""
    found = view.pictures("look_*")
    if not found:
        return note("The first pictures come after some trials of sentences and settings.")
    last = found[-1].stem.split("_")[1]
    cells = []
    for path in found:
        _, iteration, number = path.stem.split("_")
        if iteration != last:
            continue
        plain = view.path / "images" / f"untouched_{number}.png"
        start = view.path / "images" / f"look_0000_{number}.png"
        before = plain if plain.is_file() else start
        pair = [
            figure(picture(before, f"picture {number} before", 256), "before"),
            figure(picture(path, f"picture {number} now", 256), f"iteration {int(last)}"),
        ]
        cells.append(grid(pair, "adp-pair"))
    title = "<h3>Pictures that are looked at while it learns</h3>"
    return f'{title}<div class="adp-pairs">{"".join(cells)}</div>'


def curves_of(view: RunView) -> str:
    """The metric, and what holds the pictures."""
    history = view.history
    name = ", ".join(view.config.get("metric") or []) or "metric"
    sign = int(view.result.get("metric", {}).get("sign", 1))
    drawn = curves(name, {"metric": points(history, "metric", sign)}, "iteration")
    others = {
        word: points(history, key)
        for key, word in (
            ("guard", "subjects lost"),
            ("drift", "structure"),
            ("misfit", "misfit to the prompt"),
            ("kl", "drift"),
        )
    }
    return drawn + curves(
        "what holds the pictures", {k: v for k, v in others.items() if v}, "iteration"
    )


def held_out_of(view: RunView) -> str:
    """What came out, on pictures that nothing was learned from."""
    result = view.result
    held_out, rows = result.get("held_out", {}), result.get("pictures", [])
    labels = result.get("story", {}).get("views", {})
    if not rows or not labels:
        return ""
    sign = int(result.get("metric", {}).get("sign", 1))
    words = (
        f"{result['metric']['name']}: {sign * held_out['before']:.3f} before, "
        f"{sign * held_out['after']:.3f} after, on {held_out['examples']} held-out pictures."
    )
    parts = [note(words)]
    for label, shown in labels.items():
        cells = [
            figure(
                picture(view.file(row.get(label)), f"{shown}: {row['prompt']}", 192), row["prompt"]
            )
            for row in rows[:_MOST]
        ]
        parts.append(f"<h4>{_escaped(shown)}</h4>{grid(cells)}")
    return f"<h3>Held-out prompts</h3>{''.join(parts)}"


def usage_of(view: RunView) -> str:
    """The lines that use what was learned."""
    return "\n".join(view.result.get("story", {}).get("code", []))


def download(view: RunView) -> Any:
    """The button's update: the file that was learned, once it is there."""
    path = view.file(view.result.get("artefact"))
    if path is None:
        return gr.update(interactive=False)
    return gr.update(value=copied(path), interactive=True)


def copied(path: Path) -> str:
    """A copy where the server may hand it out; no path of the runs is ever given to it."""
    return str(shutil.copy(path, Path(tempfile.mkdtemp(prefix="adjointdpm-")) / path.name))


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
