"""The reference picture of a metric, as a file or as a tensor."""

from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import InvalidTypeError, ShapeError
from adjointdpm.support.named_options import quoted
from adjointdpm.support.picture_files import SMALLEST, read_picture

Picture = str | Path | Float[Tensor, "3 height width"] | Float[Tensor, "1 3 height width"]


def reference_picture(reference: Picture) -> Float[Tensor, "1 3 height width"]:
    """Read it if it is a file; a tensor in [0, 1] may have one picture's shape or a batch's of one.

    Raises:
        InvalidTypeError: neither a path nor a tensor.
        ShapeError: a tensor of another shape, or with a side below 8 pixels.
        InvalidInputError: the file cannot be read.

    """
    if isinstance(reference, str | Path):
        return read_picture(reference)[None]
    if not isinstance(reference, Tensor):
        raise InvalidTypeError(
            f"reference={reference!r} must be the path of a picture or a tensor [3, H, W]"
        )
    picture = reference.detach()[None] if reference.ndim == 3 else reference.detach()
    if picture.ndim != 4 or picture.shape[:2] != (1, 3) or min(picture.shape[2:]) < SMALLEST:
        raise ShapeError(
            f"reference {tuple(reference.shape)} must have the shape [3, H, W] with H, W ≥ "
            f"{SMALLEST}"
        )
    return picture


def reference_name(reference: Picture) -> str:
    """How reports, and a metric's text, call it: the path, or "tensor"."""
    return "tensor" if isinstance(reference, Tensor) else quoted(str(reference))
