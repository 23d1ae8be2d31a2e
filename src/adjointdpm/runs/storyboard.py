"""One picture that tells a run's story: bands of held-out pictures, each view a row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from adjointdpm.errors import OutputError
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.untrusted import file_of
from adjointdpm.support.files import write_bytes

_MARGIN, _SIDE, _GAP, _LEFT, _BETWEEN, _CAPTION = 8, 112, 6, 108, 18, 18
_INK, _WRONG = "#1f2430", "#b3261e"


@dataclass(frozen=True)
class Band:
    """Rows of one finished run.

    Args:
        folder: the run.
        result: its `result.json`.
        views: the views to show, with a label for each row.
        aside: a picture to show in the label's place of the last row: a style reference.
        verdicts: write what an audit's victim sees under its pictures, in red where it is not what
            it saw before.

    """

    folder: RunFolder
    result: Mapping[str, Any]
    views: Mapping[str, str]
    aside: Path | None = None
    verdicts: bool = False


def write_storyboard(bands: Sequence[Band], path: Path, columns: int = 8) -> Path:
    """Write a PNG with the first `columns` pictures of every band.

    Raises:
        OutputError: a picture is missing, or `path` cannot be written.

    """
    font, step = ImageFont.load_default(13), _SIDE + _GAP
    heights = [
        len(band.views) * step - _GAP + (_CAPTION * len(band.views) if band.verdicts else 0)
        for band in bands
    ]
    size = (
        _LEFT + step * columns - _GAP + _MARGIN,
        sum(heights) + _BETWEEN * (len(bands) - 1) + 2 * _MARGIN,
    )
    canvas = Image.new("RGB", size, "white")
    draw, top = ImageDraw.Draw(canvas), _MARGIN
    for band, height in zip(bands, heights, strict=True):
        y = top
        for view, label in band.views.items():
            draw.text((_MARGIN, y + 8), label, fill=_INK, font=font)
            for x, row in enumerate(band.result["pictures"][:columns]):
                canvas.paste(_picture(_shown(band, row[view]), _SIDE), (_LEFT + x * step, y))
                if band.verdicts:
                    verdict = row[f"{view}_verdict"]
                    color = _INK if verdict == row["before_verdict"] else _WRONG
                    draw.text(
                        (_LEFT + x * step + _SIDE // 2, y + _SIDE + 2),
                        verdict,
                        fill=color,
                        font=font,
                        anchor="ma",
                    )
            if band.aside is not None:
                canvas.paste(_picture(band.aside, _LEFT - _MARGIN - 24), (_MARGIN, y + 28))
            y += step + (_CAPTION if band.verdicts else 0)
        top += height + _BETWEEN
    buffer = BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return write_bytes(path, buffer.getvalue())


def _shown(band: Band, path: object) -> Path:
    try:
        return file_of(band.folder.path, path)
    except (OSError, ValueError) as error:
        raise OutputError(f"a picture of {band.folder.path} cannot be read: {error}") from error


def _picture(path: Path, side: int) -> Image.Image:
    try:
        return Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    except OSError as error:
        raise OutputError(f"the run's picture {path} cannot be read: {error}") from error
