"""One run at a time in a run folder."""

import json
import os
import platform
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from adjointdpm.errors import OutputError
from adjointdpm.runs.provenance import command_line
from adjointdpm.support.files import read_bounded

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

NAME = "run.lock"
_MOST = 100_000  # bytes: a command line may name many things

_held: "weakref.WeakValueDictionary[Path, RunLock]" = weakref.WeakValueDictionary()


class RunLock:
    """The lock of a run folder: a file that says which process holds it, locked while it lives.

    The system unlocks it when the process ends, however it ends, so that a dead process never
    stands in the way. Within a process all share the lock, and it is given back when nobody
    refers to it any more.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._give_back = weakref.finalize(self, _give_back, path, descriptor, os.getpid())

    @classmethod
    def of(cls, folder: Path) -> "RunLock":
        """The lock of an existing folder.

        Raises:
            OutputError: another process holds it, or the folder cannot be written to.

        """
        path = folder.resolve() / NAME
        held = _held.get(path)
        if held is None or not held.is_held:
            held = _held[path] = cls(path, _lock(path, folder))
        return held

    @property
    def is_held(self) -> bool:
        """Whether it was not given back."""
        return self._give_back.alive

    def release(self) -> None:
        """Give it back."""
        self._give_back()


def _lock(path: Path, folder: Path) -> int:
    """Lock the file and say in it who did; return its descriptor."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise OutputError(
                f"cannot write into the folder {folder}: {error.strerror or error}; choose another"
            ) from error
        try:
            if not _try(descriptor, path):
                raise OutputError(_in_use(folder, path))
            # Who held it before may have deleted the file after it was opened here.
            if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                _say_who(descriptor)
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise OutputError(f"cannot lock {path}: {error.strerror or error}") from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _try(descriptor: int, path: Path) -> bool:
    """Lock an open file, if no other process has it."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: believe what the file says
            return not _is_alive(_holder(path))
        return True
    return not _is_alive(_holder(path))


def _say_who(descriptor: int) -> None:
    who = {
        "host": platform.node(),
        "pid": os.getpid(),
        "start": time.strftime("%Y-%m-%d %H:%M:%S"),
        "process_start": _process_start(os.getpid()),
        "command": command_line(),
    }
    os.truncate(descriptor, 0)
    os.write(descriptor, (json.dumps(who) + "\n").encode())


def _holder(path: Path) -> dict[str, Any]:
    """What a lock's file says; nothing where it says nothing that can be read."""
    with suppress(OSError, ValueError, RecursionError):
        found = json.loads(read_bounded(path, _MOST))
        if isinstance(found, dict):
            return found
    return {}


def _process_start(pid: int) -> float | None:
    """When a process began: a number is given to another process in time."""
    import psutil

    with suppress(psutil.Error):
        return psutil.Process(pid).create_time()
    return None


def _is_alive(holder: dict[str, Any]) -> bool:
    """Whether the process that a lock names still runs, as far as it can be known from here."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or holder.get("host") != platform.node():
        return bool(holder)
    begun = _process_start(pid)
    return begun is not None and begun == holder.get("process_start", begun)


def _in_use(folder: Path, path: Path) -> str:
    holder: dict[str, Any] = {}
    for _ in range(10):  # it may have been locked a moment ago, and nothing written yet
        if holder := _holder(path):
            break
        time.sleep(0.02)
    named = (
        f" (process {holder.get('pid')} on {holder.get('host')}, since {holder.get('start')}: "
        f"{holder.get('command')})"
        if holder
        else ""
    )
    return (
        f"{folder} is in use by another run{named}; wait until it ends, or choose another folder "
        f"with --out"
    )


def _give_back(path: Path, descriptor: int, owner: int) -> None:
    if os.getpid() != owner:  # a copy of the process, which was never given the lock
        return
    with suppress(OSError):
        # While it is still locked: nobody else can have taken this file for theirs.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            path.unlink()
    with suppress(OSError):
        os.close(descriptor)
