"""One picture that tells a run's story: held-out pictures before, above the same ones after."""

import json
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from adjointdpm.errors import OutputError
from adjointdpm.files import write_bytes
from adjointdpm.run_folder import RunFolder

_SIDE, _GAP, _LEFT = 112, 6, 92


def write_storyboard(folder: RunFolder, path: Path, columns: int = 8) -> Path:
    """Write a PNG with the first `columns` held-out pictures of a finished run: the untouched model's row, and the learned one's.

    Raises:
        OutputError: the folder holds no finished run, or `path` cannot be written.

    """
    try:
        result = json.loads((folder.path / "result.json").read_text())
        rows = result["pictures"][:columns]
        views = {"untouched": "before", f"with {result['token']['name']}": "after"}
        pictures = [[Image.open(folder.path / row[view]).convert("RGB") for row in rows] for view in views.values()]
    except (OSError, ValueError, KeyError) as error:
        raise OutputError(f"{folder.path} holds no finished run ({error})") from error
    step = _SIDE + _GAP
    canvas = Image.new("RGB", (_LEFT + step * len(rows), step * len(views) - _GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for y, (label, line) in enumerate(zip(views, pictures, strict=True)):
        draw.text((0, y * step + _SIDE // 2), label, fill="#1f2430", font=font, anchor="lm")
        for x, picture in enumerate(line):
            canvas.paste(picture.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), (_LEFT + x * step, y * step))
    return write_bytes(path, _png(canvas))


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
