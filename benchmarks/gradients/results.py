"""Measurements, one JSON line each, so that a run can be interrupted, resumed and divided."""

import json
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adjointdpm.errors import OutputError
from benchmarks.common import RESULTS

Line = dict[str, Any]
KEPT = RESULTS / "gradients.jsonl.xz"


class Results:
    """An append-only file of measurements.

    A later line with the same identity replaces an earlier one. A line that breaks off at the end
    is dropped.

    Args:
        path: the file.
        resume: whether to go on with what it holds.
        force: whether to throw away what it holds.

    Raises:
        OutputError: it exists, and neither is wanted; or it cannot be written to.

    """

    def __init__(self, path: Path, *, resume: bool = False, force: bool = False) -> None:
        self.path = path
        if path.exists() and not (resume or force):
            raise OutputError(
                f"{path} holds measurements already; go on with --resume, or start again with "
                f"--force"
            )
        self._lines: dict[str, Line] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if force and not resume:
                path.write_text("")
            self._read()
        except OSError as error:
            raise OutputError(f"{path} cannot be used: {error}") from error

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines.values())

    def get(self, identity: Line) -> Line | None:
        """The line with this identity, if there is one."""
        return self._lines.get(_key(identity))

    def add(self, identity: Line, content: Line) -> None:
        """Write a line to the disk at once."""
        line = {**identity, **content, "identity": sorted(identity)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines[_key(identity)] = line

    def _read(self) -> None:
        if not self.path.exists():
            return
        text = self.path.read_text("utf-8")
        whole, _, rest = text.rpartition("\n")
        if rest:  # an interrupted write
            self.path.write_text(whole + "\n" if whole else "", "utf-8")
        self._lines = _parse(whole, self.path)


def kept_lines(path: Path = KEPT) -> list[Line]:
    """The measurements that come with the repository."""
    return list(_parse(lzma.decompress(path.read_bytes()).decode(), path).values())


def _parse(text: str, path: Path) -> dict[str, Line]:
    """Lines by their identity."""
    found: dict[str, Line] = {}
    for number, row in enumerate(text.splitlines(), 1):
        try:
            line = json.loads(row)
            found[_key({name: line[name] for name in line["identity"]})] = line
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path}, line {number} is no measurement: {error}") from error
    return found


def _key(identity: Line) -> str:
    return json.dumps(identity, sort_keys=True)
