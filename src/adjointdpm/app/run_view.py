"""What a run folder shows while the run is going on, and afterwards."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adjointdpm.app.security import inside
from adjointdpm.errors import InvalidInputError

_LARGEST = 50_000_000  # bytes of a JSON file of a run that are read


@dataclass(frozen=True)
class RunView:
    """Reads a run folder; what is not there yet, or not whole, is empty.

    Args:
        path: the folder.

    """

    path: Path

    @property
    def config(self) -> dict[str, Any]:
        """Its settings."""
        try:
            found = yaml.safe_load(_text(self.path / "config.yaml"))
        except yaml.YAMLError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def result(self) -> dict[str, Any]:
        """`result.json`, which is there at the end."""
        try:
            found = json.loads(_text(self.path / "result.json") or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def history(self) -> list[dict[str, Any]]:
        """The records of all iterations."""
        return lines_of(self.path / "history.jsonl")

    def pictures(self, pattern: str) -> list[Path]:
        """The pictures whose names match, in their order."""
        return sorted((self.path / "images").glob(f"{pattern}.png"))

    def file(self, name: object) -> Path | None:
        """A file that the run has named, if it is there and within the folder."""
        try:
            path = inside(self.path, name)
        except InvalidInputError:
            return None
        return path if path.is_file() else None

    def signature(self) -> tuple[Any, ...]:
        """Something that changes whenever the folder shows something new."""
        names = ("history.jsonl", "result.json", "report.html", "findings.jsonl", "images", ".")
        found = []
        for name in names:
            try:
                stat = (self.path / name).stat()
                found.append((stat.st_mtime_ns, stat.st_size))
            except OSError:
                found.append(None)
        return tuple(found)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines; a line that is cut off ends it."""
    found = []
    for line in _text(path).splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if isinstance(record, dict):
            found.append(record)
    return found


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            return ""
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
