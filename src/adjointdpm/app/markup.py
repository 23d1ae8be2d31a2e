"""Pictures, curves and tables as HTML: escaped, labelled for screen readers, in the page's colours.

Pictures are part of the text, so that the server hands out no path of any file.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageChops

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 420, 150, 52, 22, 10


def picture(path: Path | None, alt: str, side: int = 512) -> str:
    """A picture of a file, at most `side` pixels a side; an empty frame if it cannot be read."""
    uri = None if path is None else _uri(path, side)
    if uri is None:
        return f'<div class="adp-empty" role="img" aria-label="{escape(alt)}: not there yet"></div>'
    return f'<img src="{uri}" alt="{escape(alt)}">'


def difference(path: Path, other: Path, alt: str, times: int = 8) -> str:
    """How two pictures differ, amplified around grey."""
    try:
        with Image.open(path) as a, Image.open(other) as b:
            first, second = a.convert("RGB"), b.convert("RGB").resize(a.size)
    except OSError:
        return picture(None, alt)
    more, less = ImageChops.subtract(second, first), ImageChops.subtract(first, second)
    up = [min(127, value * times) for value in range(256)] * 3
    down = [min(128, value * times) for value in range(256)] * 3
    grey = Image.new("RGB", first.size, (128, 128, 128))
    shown = ImageChops.add(grey, more.point(up))
    shown = ImageChops.subtract(shown, less.point(down))
    return f'<img src="{_encoded(shown)}" alt="{escape(alt)}">'


def figure(image: str, caption: str, mark: bool = False) -> str:
    """A picture with words below it."""
    kind = ' class="adp-mark"' if mark else ""
    return f"<figure>{image}<figcaption{kind}>{escape(caption)}</figcaption></figure>"


def grid(cells: Iterable[str], kind: str = "") -> str:
    """Figures side by side, in as many rows as they need."""
    return f'<div class="adp-grid {kind}">{"".join(cells)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table; the cells are HTML."""
    top = "".join(f'<th scope="col">{escape(word)}</th>' for word in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="adp-table"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def note(text: str, kind: str = "") -> str:
    """A paragraph."""
    return f'<p class="adp-note {kind}">{escape(text)}</p>' if text else ""


def curves(title: str, lines: Mapping[str, Sequence[tuple[float, float]]], across: str) -> str:
    """Curves over iterations, as one drawing with its figures in its label.

    Args:
        title: what is drawn.
        lines: points by name, at most three.
        across: what the numbers below are.

    """
    lines = {
        name: [p for p in points if all(map(math.isfinite, p))] for name, points in lines.items()
    }
    points = [point for line in lines.values() for point in line]
    if not points:
        return ""
    xs, ys = zip(*points, strict=True)
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    if high - low < 1e-12:
        low, high = low - abs(low) * 0.05 - 1e-3, high + abs(high) * 0.05 + 1e-3

    def place(x: float, y: float) -> str:
        across = (x - left) / max(right - left, 1e-12)
        up = (y - low) / (high - low)
        return (
            f"{_LEFT + across * (_WIDTH - _LEFT - 8):.1f},"
            f"{_TOP + (1 - up) * (_HEIGHT - _TOP - _BOTTOM):.1f}"
        )

    drawn, said = [], []
    for number, (name, line) in enumerate(lines.items()):
        if not line:
            continue
        path = " ".join(place(x, y) for x, y in line)
        drawn.append(f'<polyline class="adp-line-{number}" points="{path}"/>')
        x, y = place(*line[-1]).split(",")
        drawn.append(f'<circle class="adp-line-{number}" cx="{x}" cy="{y}" r="3"/>')
        said.append(f"{name} from {line[0][1]:.4g} to {line[-1][1]:.4g}")
    key = " ".join(
        f'<span class="adp-key-{number}">{escape(name)}</span>' for number, name in enumerate(lines)
    )
    base = _HEIGHT - _BOTTOM
    return (
        f'<div class="adp-curve"><div class="adp-title">{escape(title)} {key}</div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}: {escape("; ".join(said))}">'
        f'<path class="adp-axis" d="M{_LEFT} {_TOP} V{base} H{_WIDTH - 8}"/>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{left:g}</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 6}" text-anchor="end">{escape(across)} {right:g}'
        f"</text>{''.join(drawn)}</svg></div>"
    )


def _uri(path: Path, side: int) -> str | None:
    try:
        with Image.open(path) as image:
            shown = image.convert("RGB")
    except OSError:
        return None
    if shown.width > side * 8 or shown.height > side:  # a video's frames stand side by side
        shown.thumbnail((side * 8, side))
    return _encoded(shown)


def _encoded(image: Image.Image) -> str:
    buffer = BytesIO()
    image.save(buffer, "PNG" if max(image.size) <= 128 else "WEBP", quality=88)
    kind = "png" if max(image.size) <= 128 else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
