"""A run that takes the place of another in its folder: the old one is moved aside until then.

Whatever happens in between, the folder holds the old run or the new one, and nothing is lost.
"""

import json
import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from adjointdpm.errors import AdjointDPMWarning, CheckpointError, OutputError
from adjointdpm.runs.mark import CONFIG, MARK, owned
from adjointdpm.support.files import write_bytes, write_text
from adjointdpm.support.json_file import read_json

_ASIDE = ".former-run"  # the old run, which can still come back
_DONE = ".former-run-deleted"  # the old run, once the new one has begun
_MOVED = "moved.json"  # what was moved there, as paths within the run folder


def move_aside(folder: Path, artefacts: Sequence[str]) -> None:
    """Move what a run has left aside; its mark and its config stay, and copies go along.

    Raises:
        OutputError: something cannot be moved; all is as it was before.

    """
    aside = folder / _ASIDE
    try:
        moved = [path.relative_to(folder) for path in owned(folder, artefacts)]
        for name in (CONFIG, MARK):
            if (folder / name).is_file():
                write_bytes(aside / name, (folder / name).read_bytes())
        write_text(aside / _MOVED, json.dumps([*map(str, moved)]))
        for path in moved:
            (aside / path.parent).mkdir(parents=True, exist_ok=True)
            (folder / path).rename(aside / path)
            if path.parent != Path():
                with suppress(OSError):  # somebody keeps other files there
                    (folder / path.parent).rmdir()
    except (OSError, OutputError) as error:
        restore(folder)
        raise OutputError(f"the former run in {folder} cannot be replaced: {error}") from error


def forget(folder: Path) -> None:
    """Delete what was moved aside, as the new run has begun.

    Raises:
        OutputError: it cannot even be renamed, so that it might come back.

    """
    _delete_done(folder)
    try:
        (folder / _ASIDE).rename(folder / _DONE)  # from here on it does not come back
    except OSError as error:
        raise OutputError(
            f"the former run in {folder / _ASIDE} cannot be deleted: {error}"
        ) from error
    _delete_done(folder)


def restore(folder: Path) -> None:
    """Put back what was moved aside, if the run that was to replace it never began.

    Raises:
        OutputError: it cannot be put back.

    """
    _delete_done(folder)
    aside = folder / _ASIDE
    if not aside.is_dir() or aside.is_symlink():
        return
    try:
        moved = read_json(aside / _MOVED) if (aside / _MOVED).exists() else []
        # The mark last: until then the next start will know that this is not finished.
        for name in [*moved, CONFIG, MARK]:
            if not os.path.lexists(aside / name):
                continue
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)  # the old one was moved away, so it is of the new run
            os.replace(aside / name, target)
        shutil.rmtree(aside)
    except (OSError, CheckpointError) as error:
        raise OutputError(
            f"{aside} holds the run that was to be replaced, which cannot be put back: {error}"
        ) from error


def _delete_done(folder: Path) -> None:
    done = folder / _DONE
    if not done.is_dir() or done.is_symlink():
        return
    try:
        shutil.rmtree(done)
    except OSError as error:
        warnings.warn(
            f"the run that was replaced cannot be deleted ({error}); delete {done} yourself",
            AdjointDPMWarning,
            stacklevel=3,
        )
