"""Files: an interrupted or failed write leaves the old one untouched, and reading is bounded."""

import os
import secrets
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from adjointdpm.errors import OutputError

_LONGEST_NAME = 255  # bytes, of nearly all file systems
_LONGEST_PATH = 4096 if os.sep == "/" else 260
_BELOW = 256  # bytes that a path within a run folder takes at most
_OF_TEMPORARY = 10  # bytes that a temporary file's name is longer


def write_bytes(path: Path, *content: bytes | memoryview) -> Path:
    """Write `content`, part after part, to a temporary file beside `path`, then move it there.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to; `path` is as it was.

    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not by tempfile, which makes files that only their owner can read.
        with temporary.open("xb") as file:
            for part in content:
                file.write(part)
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
    """`write_bytes` of UTF-8 text.

    Raises:
        OutputError: as `write_bytes`; or the text holds half characters (lone surrogates).

    """
    try:
        encoded = content.encode()
    except UnicodeEncodeError as error:
        found = content[error.start : error.end]
        raise OutputError(f"cannot write {path}: {found!r} is no text") from error
    return write_bytes(path, encoded)


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes; a pipe or a device, which might never end, is refused.

    Raises:
        OSError: it cannot be opened, or is no file.

    """
    # A pipe that nobody writes to would wait already while it is opened.
    descriptor = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no file, but a folder, a pipe or a device")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file, unless it is longer than anything that this library writes there.

    Raises:
        OSError: it cannot be read, is no file, or has more than `most` bytes.

    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"{path} has more than {most} bytes, too many for such a file")
    return content


def safe_name(text: str) -> str:
    """A text as part of a file's name: letters, digits, space, "-" and "_", at most 60 bytes."""
    plain = "".join(c if c.isalnum() or c in " -_" else "_" for c in text).strip() or "_"
    return cut_to_bytes(plain)


def cut_to_bytes(text: str, most: int = 60) -> str:
    """The beginning of a text that has at most so many bytes: file systems count them."""
    return text.encode(errors="ignore")[:most].decode(errors="ignore")


def check_path(path: Path, what: str = "--out", below: int = _BELOW) -> None:
    """Check that files of these names can be made, before hours of work.

    Args:
        path: a file or a folder, which need not be there yet.
        what: what messages call it.
        below: bytes that names of files within a folder add.

    Raises:
        OutputError: the path holds what is no text, or is too long.

    """
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OutputError(
            f"{what} {text!a} holds bytes that are no UTF-8 text; choose another name"
        ) from error
    if "\0" in text:
        raise OutputError(f"{what} {text!r} holds a null character; choose another name")
    for part in path.parts:
        if len(part.encode()) > _LONGEST_NAME - _OF_TEMPORARY:
            raise OutputError(
                f"{what}: the name {part[:40]!r}… has {len(part.encode())} bytes, and "
                f"{_LONGEST_NAME - _OF_TEMPORARY} are the most; choose a shorter one"
            )
    if len(os.fsencode(path.absolute())) + below > _LONGEST_PATH:
        raise OutputError(
            f"{what} {text[:40]!r}… has {len(text.encode())} bytes, and leaves none for the names "
            f"of files in it (a path has at most {_LONGEST_PATH}); choose a shorter one"
        )


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check that a disk has room: before hours of work, not after them.

    Args:
        folder: on that disk; it must exist.
        needed: bytes.
        what: for which there must be room; the message begins with it.

    Raises:
        OutputError: there is less.

    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{what} needs {needed / 1e6:,.0f} MB on the disk of {folder}, and {free / 1e6:,.0f} "
            f"MB are free; make room, or choose another folder"
        )


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
