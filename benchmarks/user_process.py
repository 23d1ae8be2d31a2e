"""A command as a user types it: in a process of its own, in a folder, with a time limit."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import adjointdpm

SOURCE = Path(adjointdpm.__file__).parents[1]
ADJOINTDPM = [sys.executable, "-m", "adjointdpm"]
_LOOK = 0.1  # seconds between looks at a running process
_RUNNING: set[int] = set()


@dataclass(frozen=True)
class Finished:
    """How a process ended.

    Args:
        code: its exit code, negative for a signal; None if it was stopped at the time limit.
        seconds: of the clock.
        cpu_seconds: of all cores.
        output, errors: what it wrote.

    """

    code: int | None
    seconds: float
    cpu_seconds: float
    output: str
    errors: str

    @property
    def interrupted(self) -> bool:
        """Whether somebody stopped it from outside, so that it says nothing."""
        return self.code is not None and (self.code < 0 or self.code == 130)

    @property
    def why(self) -> str:
        """The last line on stderr, or on stdout if there is none."""
        lines = [line.strip() for text in (self.output, self.errors) for line in text.splitlines()]
        return next((line for line in reversed(lines) if line), "")


def run_as_user(
    command: Sequence[str],
    folder: Path,
    limit: float,
    threads: int,
    variables: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command with this checkout's `adjointdpm`, and stop it at the time limit.

    Args:
        command: program and arguments.
        folder: where it runs.
        limit: in seconds.
        threads: that torch may use.
        variables: further environment variables.

    """
    path = os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(threads),
        "COLUMNS": "100",
        **(variables or {}),
    }
    with tempfile.TemporaryFile("w+b") as output, tempfile.TemporaryFile("w+b") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=errors
        )
        code, cpu_seconds = _wait(process, started + limit)
        seconds = time.perf_counter() - started
        texts = []
        for stream in (output, errors):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    return Finished(code, seconds, cpu_seconds, *texts)


def stop_all() -> None:
    """Stop what still runs, at an interruption."""
    for pid in list(_RUNNING):
        _kill(pid)


def _wait(process: subprocess.Popen[bytes], until: float) -> tuple[int | None, float]:
    """Exit code and processor time of a process, which is stopped if it runs too long."""
    _RUNNING.add(process.pid)
    late = False
    try:
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if not late and time.perf_counter() > until:
                late = True
                _kill(process.pid)
            time.sleep(_LOOK)
    finally:
        _RUNNING.discard(process.pid)
    process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen waits no more
    return None if late else process.returncode, usage.ru_utime + usage.ru_stime


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
