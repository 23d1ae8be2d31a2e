"""Text files that users hand over: one reader for prompts, settings and lists of names."""

import codecs
import re
import stat
from pathlib import Path

from adjointdpm.errors import AdjointDPMError, InvalidInputError

LARGEST = 16_000_000  # bytes: far more prompts than anybody draws
_BOM = "\ufeff"
# The mark of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_REMEDY = "save the file as UTF-8"
_LINE_ENDS = re.compile(r"\r\n|\r|\n")  # str.splitlines also splits at marks within a line


def read_text(path: str | Path, what: str, error: type[AdjointDPMError] = InvalidInputError) -> str:
    """Read a file as UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        what: what messages call it, such as "--prompts".
        error: the class of the exceptions to raise.

    Raises:
        error: no such file, a pipe or a device, more than 16 MB, another encoding, or no text.

    """
    path = Path(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise error(
                f"{what} {path} cannot be read: it is no regular file (a folder, pipe or device); "
                "write the text into a file"
            )
        if found.st_size > LARGEST:
            raise error(
                f"{what} {path} has {found.st_size} bytes; more than {LARGEST} are not read, "
                "since no text for this program is that long"
            )
        content = path.read_bytes()
    except (OSError, ValueError) as failure:
        if isinstance(failure, error):
            raise
        reason = getattr(failure, "strerror", None) or failure
        raise error(f"{what} {path} cannot be read: {reason}") from failure
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            raise error(f"{what} {path} cannot be read: it is {encoding}; {_REMEDY}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = content[: failure.start].count(b"\n") + 1
        byte = content[failure.start]
        raise error(
            f"{what} {path} cannot be read: line {line} is not UTF-8 (byte 0x{byte:02x}); {_REMEDY}"
        ) from failure
    if "\0" in text:
        raise error(
            f"{what} {path} cannot be read: it holds zero bytes, so it is UTF-16 or no text; "
            f"{_REMEDY}"
        )
    return text


def read_lines(
    path: str | Path, what: str, error: type[AdjointDPMError] = InvalidInputError
) -> list[str]:
    """The lines of a file without spaces around them; see `read_text`.

    Byte order marks before a line, as in files that were put together, are left out.
    """
    text = read_text(path, what, error)
    return [line.strip().strip(_BOM).strip() for line in _LINE_ENDS.split(text)]
