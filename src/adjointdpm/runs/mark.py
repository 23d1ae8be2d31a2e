"""The mark of a run folder, `run.json`: it says what the run may have left there."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, field_validator

from adjointdpm.errors import CheckpointError
from adjointdpm.support.json_file import read_json
from adjointdpm.support.schema import Facts, check_facts

MARK = "run.json"
CONFIG = "config.yaml"
PROGRAM = "adjointdpm"
# What every run may leave, whatever its task.
_OF_EVERY_RUN = (
    "checkpoint",
    "trackers",
    "images",
    "states",
    "history.jsonl",
    "result.json",
    "report.html",
)
_MOST = 2**20  # bytes


class Mark(Facts):
    """What marks a folder as that of a run, and lists what is the run's own.

    Args:
        program: which left it.
        artefacts: files and folders beside those of every run, as paths within the folder; one
            that ends in "/" is a run folder of its own.
        part: whether the run is a part of the one in the folder around it.
        inputs: the digests of the pictures that the run reads; see `picture_digests`.

    """

    program: Literal["adjointdpm"] = PROGRAM
    artefacts: list[str] = Field(default_factory=list)
    part: bool = False
    inputs: dict[str, str] = Field(default_factory=dict)

    @field_validator("artefacts")
    @classmethod
    def _stay_within(cls, names: list[str]) -> list[str]:
        for name in names:
            if not may_be_artefact(name):
                raise ValueError(f"must be paths within the run folder, and {name!r} is none")
        return names


def may_be_artefact(name: str) -> bool:
    """Whether deleting a path of this name can only delete something within the run folder."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not {"/", ".."} & {*parts}
        and not {"\0", "\\"} & {*name}
        and parts[0] not in (CONFIG, MARK)
    )


def read_mark(folder: Path) -> Mark | None:
    """The mark of a folder; None if the folder is not that of a run."""
    with suppress(CheckpointError):
        found = read_json(folder / MARK, _MOST)
        if isinstance(found, dict) and {"program", "artefacts"} <= found.keys():
            return check_facts(Mark, found)
    return None


def owned(folder: Path, artefacts: Sequence[str]) -> Iterator[Path]:
    """What is there of all that a run may have left, except its own mark and config.

    What lies behind a link out of the folder is left out, and so is a run within the run that is
    no part of it.
    """
    home = folder.resolve()
    for name in (*_OF_EVERY_RUN, *artefacts):
        found = folder / name
        if not found.parent.resolve().is_relative_to(home):
            continue
        if name.endswith("/"):
            mark = None if found.is_symlink() else read_mark(found)
            if mark is not None and mark.part:
                yield from owned(found, mark.artefacts)
                yield from (found / own for own in (CONFIG, MARK) if (found / own).exists())
        elif found.exists() or found.is_symlink():
            yield found


def other_run(folder: Path, artefacts: Sequence[str]) -> Path | None:
    """A folder of another run within what a run has left, if there is one."""
    for path in owned(folder, artefacts):
        if path.is_dir() and not path.is_symlink():
            for inner in path.rglob(MARK):
                if read_mark(inner.parent) is not None:
                    return inner.parent
    return None
