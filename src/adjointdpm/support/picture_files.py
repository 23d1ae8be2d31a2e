"""Picture files: the one reader of all pictures that users name."""

import stat
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from adjointdpm.errors import InvalidInputError

FORMATS = ("PNG", "JPEG", "WEBP")
SMALLEST = 8  # pixels a side
LARGEST = 16_000_000  # pixels in all
_MOST_BYTES = 20 * LARGEST  # of a file: more than its pixels can take
_SIXTEEN_BITS = 65535


def read_picture(path: str | Path) -> Float[Tensor, "3 height width"]:
    """Read a PNG, JPEG or WebP file as float32 RGB in [0, 1]; of an animation, the first frame.

    The picture is turned upright if its EXIF data say so; transparent parts become white. Gray
    pictures of 16 bits keep them all; of 16 bits in each colour the upper 8 are read.

    Raises:
        InvalidInputError: the file is missing, damaged, or of another format, or the picture has a
            side below 8 pixels or more than 16 megapixels (found before anything is decoded).

    """
    upright = _upright(path)
    if _is_deep(upright):
        gray = torch.from_numpy(_deep_gray(upright))
        return gray[None].expand(3, -1, -1).clone()
    return torch.from_numpy(np.array(_on_white(upright))).permute(2, 0, 1).float() / 255


def open_picture(path: str | Path) -> Image.Image:
    """`read_picture` for code that takes Pillow's pictures: RGB of 8 bits, of any smallness.

    Raises:
        InvalidInputError: see `read_picture`.

    """
    upright = _upright(path, smallest=1)
    if not _is_deep(upright):
        return _on_white(upright)
    return Image.fromarray((_deep_gray(upright) * 255).round().astype(np.uint8)).convert("RGB")


def _upright(given: str | Path, smallest: int = SMALLEST) -> Image.Image:
    """The decoded picture in its own mode, as it is meant to be seen."""
    path = Path(given).expanduser()
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"picture {path} does not exist") from error
    if not stat.S_ISREG(found.st_mode):
        raise InvalidInputError(f"picture {path} does not exist: it is no regular file")
    if found.st_size > _MOST_BYTES:
        raise InvalidInputError(
            f"picture {path} has {found.st_size} bytes; more than {_MOST_BYTES} are not read"
        )
    try:
        # Pillow would also refuse very large pictures, but by a warning or an error that depends on
        # a global setting.
        with Image.open(path, formats=FORMATS) as file:
            _check_size(path, *file.size, smallest)
            file.load()
            return ImageOps.exif_transpose(file)
    except InvalidInputError:
        raise
    except Exception as error:  # Pillow lets through whatever a damaged file causes
        raise InvalidInputError(
            f"picture {path} cannot be read as {', '.join(FORMATS)}: {error}"
        ) from error


def _is_deep(picture: Image.Image) -> bool:
    """Whether it is gray of 16 bits, which Pillow's conversion to RGB would clip at 255."""
    return picture.mode.startswith("I")


def _deep_gray(picture: Image.Image) -> Float[np.ndarray, "height width"]:
    """The values in [0, 1] of a gray picture of 16 bits, transparent ones white."""
    values = np.array(picture, dtype=np.float32)
    gray = values / _SIXTEEN_BITS
    clear = picture.info.get("transparency")
    return np.where(values == clear, np.float32(1), gray) if isinstance(clear, int) else gray


def _on_white(picture: Image.Image) -> Image.Image:
    opaque = Image.new("RGBA", picture.size, "white")
    opaque.alpha_composite(picture.convert("RGBA"))
    return opaque.convert("RGB")


def _check_size(path: Path, width: int, height: int, smallest: int) -> None:
    if min(width, height) < smallest:
        raise InvalidInputError(
            f"picture {path} has {width}×{height} pixels; it needs at least {smallest}×{smallest}"
        )
    if width * height > LARGEST:
        raise InvalidInputError(
            f"picture {path} has {width}×{height} pixels; more than {LARGEST // 1_000_000} "
            f"megapixels are not read"
        )
