"""The run folder of a command: opened before the work, and what to do next if that is cut off."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adjointdpm.cli.options import Folder
from adjointdpm.cli.terminal import command_line, note
from adjointdpm.errors import AdjointDPMError
from adjointdpm.runs.interruption import Interrupted

if TYPE_CHECKING:
    from adjointdpm.runs.folder import RunFolder


@contextmanager
def opened_run(
    where: Folder, facts: dict[str, Any], artefacts: Sequence[str]
) -> Iterator["RunFolder"]:
    """The run folder that the flags ask for, for as long as the block lasts.

    Args:
        where: the flags.
        facts, artefacts: as `RunFolder.open` takes them.

    Raises:
        OutputError, CheckpointError, InvalidInputError: see `RunFolder.open`.
        Interrupted: the block was interrupted; the message ends with the command that goes on.

    """
    from adjointdpm.runs.folder import RunFolder
    from adjointdpm.runs.input_files import picture_digests

    folder = RunFolder.open(
        where.out,
        facts,
        artefacts=artefacts,
        resume=where.resume,
        force=where.force,
        inputs=picture_digests(facts),
    )
    if where.resume and folder.writable and not folder.has_saved:
        note(f"nothing was saved in {where.out} yet: the run starts from its beginning")
    try:
        with _sigterm_as_interrupt():
            yield folder
    except KeyboardInterrupt as stop:
        raise Interrupted(f"{str(stop) or 'interrupted'}\n{_what_next(folder)}") from stop
    finally:
        folder.close()


def written_report(folder: "RunFolder") -> Path:
    """Write the report.

    Raises:
        OutputError: it cannot be written; the message says what is kept.

    """
    from adjointdpm.runs.report import write_report

    try:
        return write_report(folder)
    except AdjointDPMError as error:
        error.add_note(
            f"All else is kept in {folder.path}; `adjointdpm report {folder.path}` writes the "
            f"report again."
        )
        raise


def _what_next(folder: "RunFolder") -> str:
    if folder.waits:
        return (
            f"the former run in {folder.path} is still there; start again with: {command_line()} "
            f"--force"
        )
    return f"go on with: {command_line()} --resume"


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Within the block SIGTERM ends the program as SIGINT does, with a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
