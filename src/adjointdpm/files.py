"""Writing files so that an interrupted or failed write leaves the old file untouched."""

import os
import tempfile
from pathlib import Path

from adjointdpm.errors import OutputError


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` to a temporary file beside `path`, then move it there.

    Raises:
        OutputError: the disk is full, or the folder cannot be written to; `path` is as it was.

    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror or error}; what was there before is untouched") from error
    return path


def write_text(path: Path, content: str) -> Path:
    """`write_bytes` of UTF-8 text."""
    return write_bytes(path, content.encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
