"""Picture files as tensors."""

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


def read_picture(path: str | Path) -> Float[Tensor, "3 height width"]:
    """Read a PNG, JPEG or WebP file as float32 RGB in [0, 1]; of an animation, the first frame.

    The picture is turned upright if its EXIF data say so; transparent parts become white.

    Raises:
        InvalidInputError: the file is missing, damaged, or of another format, or the picture has a
            side below 8 pixels or more than 16 megapixels (found before anything is decoded).

    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InvalidInputError(f"picture {path} does not exist")
    try:
        # Pillow would also refuse very large pictures, but by a warning or an error that depends on
        # a global setting.
        with Image.open(path, formats=FORMATS) as file:
            _check_size(path, *file.size)
            upright = ImageOps.exif_transpose(file)
            opaque = Image.new("RGBA", upright.size, "white")
            opaque.alpha_composite(upright.convert("RGBA"))
    except InvalidInputError:
        raise
    except Exception as error:  # Pillow lets through whatever a damaged file causes
        raise InvalidInputError(
            f"picture {path} cannot be read as {', '.join(FORMATS)}: {error}"
        ) from error
    return torch.from_numpy(np.array(opaque.convert("RGB"))).permute(2, 0, 1).float() / 255


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < SMALLEST:
        raise InvalidInputError(
            f"picture {path} has {width}×{height} pixels; it needs at least {SMALLEST}×{SMALLEST}"
        )
    if width * height > LARGEST:
        raise InvalidInputError(
            f"picture {path} has {width}×{height} pixels; more than {LARGEST // 1_000_000} "
            f"megapixels are not read"
        )
