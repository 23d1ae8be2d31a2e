"""Picture files of every mode and format, whole and damaged: what is read is what was drawn."""

import io
from pathlib import Path
from random import Random
from typing import Any

from fuzz.damage import damage, damages
from fuzz.verdict import Verdict

TITLE = "pictures"
#: Formats, and the modes in which they can be written.
_MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"],
    "JPEG": ["L", "RGB", "CMYK", "YCbCr"],
    "WEBP": ["RGB", "RGBA", "L", "P"],
    "TIFF": ["RGB", "F", "I;16B", "LAB"],
    "GIF": ["P", "L"],
    "BMP": ["RGB", "1"],
    "PPM": ["RGB", "L"],
    "JPEG2000": ["RGB"],
    "PDF": ["RGB"],
}
_FORMATS = ["PNG", "JPEG", "WEBP"] * 4 + list(_MODES)
_SIZES = [(16, 16), (8, 8), (7, 9), (1, 1), (64, 8), (5000, 4000), (40, 9)]
# Of lossy formats, over the mean of the picture.
_CLOSE = 0.03


def cases(pick: Random) -> dict[str, Any]:
    """A mode, a format, a size, how it lies (EXIF), and sometimes a damage."""
    return {
        "format": (format_ := pick.choice(_FORMATS)),
        "mode": pick.choice(_MODES[format_]),
        "size": pick.choice([*_SIZES[:1] * 6, *_SIZES]),
        "level": pick.randint(0, 10) / 10,
        "lies": pick.randint(0, 9),
        "damage": pick.choice([None, damages(pick)]),
    }


def run(case: dict[str, Any], inputs: Path) -> Verdict:
    """The verdict on a case."""
    import torch

    from adjointdpm.errors import AdjointDPMError
    from adjointdpm.support.picture_files import read_picture

    content = _picture(case)
    file = Path(f"picture.{case['format'].lower()}")
    file.write_bytes(content)
    what = "whole" if case["damage"] is None else damage(file, case["damage"])
    try:
        found = read_picture(file)
    except AdjointDPMError as error:
        return Verdict("refused", str(error))
    whole = found.dtype == torch.float32 and found.ndim == 3 and found.shape[0] == 3
    if not whole or not torch.isfinite(found).all() or found.min() < 0 or found.max() > 1:
        return Verdict("different", f"{what}: {found.dtype} {tuple(found.shape)}")
    if case["damage"] is not None:
        return Verdict("worked")
    turned = case["format"] == "JPEG" and 5 <= case["lies"] <= 8
    wide, high = case["size"][::-1] if turned else case["size"]
    if found.shape[1:] != (high, wide):
        return Verdict("different", f"size {tuple(found.shape)}, drawn {case['size']}")
    if abs(found.mean().item() - case["level"]) > _CLOSE:
        return Verdict("different", f"mean {found.mean():.3f}, drawn {case['level']:.3f}")
    return Verdict("worked")


def _picture(case: dict[str, Any]) -> bytes:
    """A gray picture of one brightness as a file."""
    import numpy as np
    from PIL import Image

    mode, level, (wide, high) = case["mode"], case["level"], case["size"]
    if mode in ("I;16", "I;16B"):
        kind = "<u2" if mode == "I;16" else ">u2"
        pixels = np.full((high, wide), round(level * 65535), kind)
        picture = Image.frombytes(mode, (wide, high), pixels.tobytes())
    elif mode in ("I", "F"):
        kind, most = (np.int32, 65535) if mode == "I" else (np.float32, 1.0)
        picture = Image.fromarray(np.full((high, wide), level * most).astype(kind))
    elif mode == "1":
        case["level"] = float(level >= 0.5)
        picture = Image.new("1", (wide, high), int(level >= 0.5))
    else:
        picture = Image.new("RGB", (wide, high), (round(level * 255),) * 3).convert(mode)
    return _written(picture, case)


def _written(picture: Any, case: dict[str, Any]) -> bytes:
    from PIL import Image

    buffer, more = io.BytesIO(), {}
    if case["format"] == "JPEG" and case["lies"]:
        exif = Image.Exif()
        exif[0x0112] = case["lies"]
        more = {"exif": exif}
    picture.save(buffer, case["format"], **more)
    return buffer.getvalue()
