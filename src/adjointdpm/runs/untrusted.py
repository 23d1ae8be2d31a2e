"""Run folders may come from other people: what their files may make this program do.

Nothing outside of the folder is read or written because a file in it says so, or because something
in it is a link.
"""

import os
import stat
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from adjointdpm.errors import AdjointDPMError

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_BYTES = 2**26  # of a picture: far more than any that a run writes


def inside(path: object) -> str:
    """A relative path, unless it could lead out of the folder that it is relative to.

    Raises:
        ValueError: it could, or it is no path at all.

    """
    if isinstance(path, str) and path.isprintable() and not {":", "\\"} & {*path}:
        parts = PurePosixPath(path).parts
        if parts and ".." not in parts and parts[0] != "/":
            return path
    raise ValueError(f"{path!r} is no file of the run folder")


def file_of(folder: Path, path: object, most: int = _MOST_BYTES) -> Path:
    """The file of a run folder that a value in its files names.

    Raises:
        ValueError: the value, or a link, leads out of the folder; or what is there is no regular
            file, or has more than `most` bytes.
        OSError: it is not there.

    """
    found = folder / inside(path)
    if not found.resolve(strict=True).is_relative_to(folder.resolve()):
        raise ValueError(f"{path!r} is a link that leads out of the run folder")
    facts = found.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError(f"{path!r} is no regular file")
    if facts.st_size > most:
        raise ValueError(f"{path!r} has {facts.st_size} bytes; more than {most} are not read")
    return found


def png_of(folder: Path, path: object) -> bytes:
    """The PNG picture of a run folder that a value in its files names.

    Raises:
        OSError, ValueError: see `file_of`; or it is no PNG.

    """
    content = file_of(folder, path).read_bytes()
    if not content.startswith(_PNG):
        raise ValueError(f"{path!r} is no PNG picture")
    return content


def link_to(path: object) -> str:
    """A relative path as the target of a link.

    Raises:
        ValueError: see `inside`.

    """
    return quote(inside(path))


def check_links(folder: Path, error: type[AdjointDPMError]) -> None:
    """Check that no link in a folder leads out of it, since a run would read and write there.

    Raises:
        error: one does.

    """
    home = folder.resolve()
    for place, folders, files in os.walk(home):
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink() and not path.resolve().is_relative_to(home):
                raise error(
                    f"{folder / path.relative_to(home)} is a link that leads out of the run "
                    f"folder, to {os.readlink(path)!r}; nothing is read or written there: put the "
                    f"files themselves in its place"
                )
