"""Picture files that a run reads: their content is part of what decides its result."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adjointdpm.errors import CheckpointError

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def picture_digests(settings: Mapping[str, Any]) -> dict[str, str]:
    """The SHA-256 of each picture file that settings name, by its path as it is written there.

    Code is left out: who mends a metric that failed goes on with the mended one.

    Args:
        settings: values by name: texts, NAME=VALUE and NAME:key=value,… among them, and lists.

    """
    names = dict.fromkeys(name for value in settings.values() for name in _named_in(value))
    files = {name: Path(name).expanduser() for name in names}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in files.items()
        if file.is_file()
    }


def check_same_pictures(path: Path, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Check that a run that goes on reads the pictures with which it began.

    Args:
        path: the run's folder.
        then: the digests of its start.
        now: those of today.

    Raises:
        CheckpointError: a file has another content, or is gone.

    """
    changed = [name for name, digest in then.items() if now.get(name, "") != digest]
    if changed:
        raise CheckpointError(
            f"the run in {path} began with another content of {', '.join(changed)}, and a result "
            "of two pictures would be none; put the former picture back, or start anew with "
            "--force in place of --resume, or with another --out"
        )


def _named_in(value: Any) -> Iterator[str]:
    """The names of pictures in a value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for entry in value:
            yield from _named_in(entry)
    elif isinstance(value, str | Path):
        for text in _pieces(str(value)):
            if text.lower().endswith(_PICTURES) and "\0" not in text:
                yield text


def _pieces(text: str) -> Iterable[str]:
    """A text, and what may be a path in NAME=VALUE or NAME:key=value,…: quotes are left out."""
    values = [part.partition("=")[2] for part in text.split(",")]
    return dict.fromkeys([text, text.partition("=")[2], *values, *(v.strip("'\"") for v in values)])
