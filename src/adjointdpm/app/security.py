"""What comes from the page is checked here: names, pictures and texts; and who may open it."""

import hashlib
import ipaddress
import secrets
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from adjointdpm.errors import InvalidInputError
from adjointdpm.support.files import safe_name, write_bytes

#: Bytes of a file that is uploaded, at most.
LARGEST_UPLOAD = 16_000_000
_FORMATS = ("PNG", "JPEG", "WEBP")
_LARGEST_PICTURE = 16_000_000  # pixels
_SMALLEST_SIDE = 8
_LONGEST_TEXT = 20_000


def run_folder(runs: Path, name: str) -> Path:
    """The folder of a run, from a name that the page has sent.

    Raises:
        InvalidInputError: the name does not lead to a folder directly below `runs`.

    """
    path = runs / name
    if name in ("", ".", "..") or name.startswith(".") or "/" in name or "\\" in name:
        raise InvalidInputError(f"run {name!r} must be the name of a folder in {runs}")
    if "\0" in name or path.is_symlink() or path.resolve().parent != runs.resolve():
        raise InvalidInputError(f"run {name!r} lies outside {runs}")
    return path


def inside(folder: Path, name: object) -> Path:
    """The path of a file of a run, from what a file in its folder says.

    Raises:
        InvalidInputError: it lies outside the folder.

    """
    path = folder / str(name)
    if "\0" in str(name) or not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidInputError(f"{name!r} lies outside the run folder {folder}")
    return path


def new_name(runs: Path, task: str, words: str) -> str:
    """The name of a folder that is not there yet, which starts with the task and some words."""
    plain = "-".join(safe_name(words.lower()).replace("_", " ").split())[:40].strip("-")
    stem = f"{task}-{plain}" if plain else task
    taken = {path.name for path in runs.iterdir()} if runs.is_dir() else set()
    number, name = 1, stem
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def checked_text(text: object, what: str) -> str:
    """A text from a form, without what no form can make.

    Raises:
        InvalidInputError: it is too long, or holds control characters.

    """
    words = "" if text is None else str(text)
    if len(words) > _LONGEST_TEXT:
        raise InvalidInputError(f"{what} has {len(words)} characters; at most {_LONGEST_TEXT}")
    if any(not (c.isprintable() or c in "\n\r\t") for c in words):
        raise InvalidInputError(f"{what} holds control characters; leave them out")
    return words.strip()


def kept_picture(folder: Path, upload: object) -> Path:
    """Write an uploaded picture anew as a PNG in a folder, named by its content.

    Nothing of the file is kept but its pixels.

    Args:
        folder: where it is kept.
        upload: its path, or what gradio says of it; that it lies among the uploads is checked by
            gradio.

    Raises:
        InvalidInputError: it is no PNG, JPEG or WebP file, or too large or too small.

    """
    path = Path(str(upload.get("path") if isinstance(upload, Mapping) else upload))
    try:
        if not path.is_file():  # a pipe would never end
            raise InvalidInputError("the picture is no file; drop it into its field again")
        size = path.stat().st_size
        if size > LARGEST_UPLOAD:
            raise InvalidInputError(
                f"the picture's file has {size / 1e6:.0f} MB; at most {LARGEST_UPLOAD / 1e6:.0f} MB"
            )
        with Image.open(path, formats=_FORMATS) as file:
            if file.width * file.height > _LARGEST_PICTURE:
                raise InvalidInputError(
                    f"the picture has {file.width}×{file.height} pixels; at most "
                    f"{_LARGEST_PICTURE // 1_000_000} megapixels"
                )
            if min(file.size) < _SMALLEST_SIDE:
                raise InvalidInputError(
                    f"the picture has {file.width}×{file.height} pixels; at least "
                    f"{_SMALLEST_SIDE} a side"
                )
            upright = ImageOps.exif_transpose(file).convert("RGBA")
        opaque = Image.new("RGBA", upright.size, "white")
        opaque.alpha_composite(upright)
        buffer = BytesIO()
        opaque.convert("RGB").save(buffer, "PNG")
    except InvalidInputError:
        raise
    except Exception as error:  # Pillow lets through whatever a damaged file causes
        raise InvalidInputError(
            f"the picture cannot be read as {', '.join(_FORMATS)}: {error}"
        ) from error
    content = buffer.getvalue()
    return write_bytes(folder / f"{hashlib.sha256(content).hexdigest()[:16]}.png", content)


def password_for(host: str, password: str | None) -> str | None:
    """The password that the page asks for: none on the loopback address unless one is given."""
    if password is not None and len(password) < 8:
        raise InvalidInputError("--password must have at least 8 characters")
    if password is None and not is_loopback(host):
        return secrets.token_urlsafe(12)
    return password


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
