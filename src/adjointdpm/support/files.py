"""Writing files so that an interrupted or failed write leaves the old file untouched."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from adjointdpm.errors import OutputError


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` to a temporary file beside `path`, then move it there.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to; `path` is as it was.

    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by tempfile, which makes files that only their owner can read.
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched"
        ) from error
    finally:  # also when interrupted; after a success it is no longer there
        with suppress(OSError):
            temporary.unlink()
    return path


def write_text(path: Path, content: str) -> Path:
    """`write_bytes` of UTF-8 text."""
    return write_bytes(path, content.encode())


def safe_name(text: str) -> str:
    """A text as part of a file's name: letters, digits, space, "-" and "_", at most 60 bytes."""
    plain = "".join(c if c.isalnum() or c in " -_" else "_" for c in text).strip() or "_"
    return plain.encode()[:60].decode(errors="ignore")


def check_writable(folder: Path) -> None:
    """Check that files can be written to a folder: before hours of work, not after them.

    Raises:
        OutputError: there is no such folder, or it cannot be written to.

    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write into the folder {folder}: {error.strerror or error}; make it, or choose "
            f"another"
        ) from error
