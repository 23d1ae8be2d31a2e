"""JSON that a run has left: bounded when it is read, and an error names the file and the line."""

import json
from pathlib import Path
from typing import Any

from adjointdpm.errors import CheckpointError
from adjointdpm.support.files import read_bounded

_MOST = 2**28  # bytes; a million records of an optimisation have about as many


def read_json(path: Path, most: int = _MOST) -> Any:
    """What a file of JSON holds.

    Raises:
        CheckpointError: it cannot be read, or has more than `most` bytes.

    """
    return _parsed(_text(path, most), str(path))


def read_json_lines(path: Path, most: int = _MOST) -> list[dict[str, Any]]:
    """The mappings in a file that has one in each line; a last line that was cut off is left out.

    Raises:
        CheckpointError: it cannot be read, or a line of it is something else.

    """
    lines = _text(path, most).split("\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):
        record = _parsed(line, f"{path}, line {number},")
        if not isinstance(record, dict):
            raise CheckpointError(f"{path}, line {number}, holds no mapping")
        records.append(record)
    return records


def _text(path: Path, most: int) -> str:
    try:
        return read_bounded(path, most).decode()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise CheckpointError(f"{where} is damaged: {reason}") from error
