"""The queue of commands that the page has asked for: one file, which outlives page and server."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from adjointdpm.errors import InvalidInputError
from adjointdpm.support.files import write_text

#: The folder beside the runs that holds the queue, the logs and what was uploaded.
STATE = ".app"
WAITING, RUNNING, STOPPED, DONE, FAILED = "waiting", "running", "stopped", "done", "failed"
_INTERRUPTED = 130  # the exit code of a command that was interrupted
_STATES = {0: DONE, _INTERRUPTED: STOPPED}
_KEPT = 200  # jobs that have ended and that the file remembers


@dataclass(frozen=True)
class Job:
    """One command.

    Args:
        name: of its run folder, or of its folder of pictures.
        arguments: of the command line, the command first.
        state: one of waiting, running, stopped, done and failed.
        stopping: whether it was asked to stop.
        pid, born: the process that runs it, and when that was born; a number is used again.
        started, ended: seconds since 1970.
        message: the error's sentence, or the last line that it printed.

    """

    name: str
    arguments: list[str]
    state: str = WAITING
    stopping: bool = False
    pid: int | None = None
    born: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    message: str = ""

    @property
    def task(self) -> str:
        """The command."""
        return self.arguments[0]

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state not in (WAITING, RUNNING)

    @property
    def is_alive(self) -> bool:
        """Whether the very process that was started still runs."""
        return self.pid is not None and birth_of(self.pid) == self.born


@dataclass(frozen=True)
class JobQueue:
    """The jobs of a folder of runs, the oldest first.

    Every change is a locked read and write of one file, so that page and worker may both make some.

    Args:
        runs: the folder that holds the run folders.

    """

    runs: Path

    @property
    def folder(self) -> Path:
        """Where the queue's own files lie."""
        return self.runs / STATE

    def log(self, name: str) -> Path:
        """What a job has printed."""
        return self.folder / f"{name}.log"

    def exit_code(self, name: str) -> Path:
        """The file that a job's process writes its exit code to, last of all."""
        return self.folder / f"{name}.exit"

    def jobs(self) -> list[Job]:
        """All jobs."""
        try:
            found = json.loads((self.folder / "queue.json").read_text(encoding="utf-8"))
            return [Job(**job) for job in found]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError):  # the runs are not lost, only who waits
            return []

    def find(self, name: str | None) -> Job | None:
        """The newest job of a name."""
        return next((job for job in reversed(self.jobs()) if job.name == name), None)

    def newest(self, *tasks: str) -> Job | None:
        """The job of these commands that runs or waits, else the last one that has ended."""
        jobs = [job for job in self.jobs() if job.task in tasks]
        active = [job for job in jobs if not job.is_over]
        return (active or jobs[-1:] or [None])[0]

    def add(self, name: str, arguments: Sequence[str]) -> Job:
        """Add a job, which waits.

        Raises:
            InvalidInputError: one of that name waits or runs.

        """
        job = Job(name, list(arguments))
        with self._changing() as jobs:
            if any(other.name == name and not other.is_over for other in jobs):
                raise InvalidInputError(f"{name} waits or runs already; choose another name")
            self.exit_code(name).unlink(missing_ok=True)
            jobs.append(job)
        return job

    def take(self) -> Job | None:
        """The job that waits longest, now running; None if one runs or none waits."""
        with self._changing() as jobs:
            if any(job.state == RUNNING for job in jobs):
                return None
            for place, job in enumerate(jobs):
                if job.state == WAITING:
                    jobs[place] = replace(job, state=RUNNING, started=time.time())
                    return jobs[place]
        return None

    def runs_as(self, name: str, pid: int) -> None:
        """Note the process of the job that runs; a stop that was asked for before reaches it."""
        with self._changing() as jobs:
            place = _running(jobs, name)
            if place is not None:
                jobs[place] = replace(jobs[place], pid=pid, born=birth_of(pid) or 0.0)
                if jobs[place].stopping:
                    _interrupt(jobs[place])

    def finish(self, name: str) -> None:
        """Note how the job that runs has ended, from the exit code that it wrote."""
        with self._changing() as jobs:
            place = _running(jobs, name)
            if place is None:
                return
            code = _exit_code(self.exit_code(name))
            state = FAILED if code is None else _STATES.get(code, FAILED)
            message = last_words(self.log(name))
            if code is None:
                message = f"its process was killed. {message}".strip()
            jobs[place] = replace(jobs[place], state=state, ended=time.time(), message=message)

    def stop(self, name: str) -> None:
        """Take a waiting job out of the queue; interrupt a running one as Ctrl-C does."""
        with self._changing() as jobs:
            for place, job in enumerate(jobs):
                if job.name != name or job.is_over:
                    continue
                if job.state == WAITING:
                    jobs[place] = replace(job, state=STOPPED, ended=time.time())
                    continue
                jobs[place] = replace(job, stopping=True)
                _interrupt(job)

    @contextmanager
    def _changing(self) -> Iterator[list[Job]]:
        """The jobs, which are written back when the block ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "queue.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            jobs = self.jobs()
            before = list(jobs)
            yield jobs
            if jobs != before:
                over = [job for job in jobs if job.is_over]
                forgotten = over[: max(0, len(over) - _KEPT)]
                kept = [asdict(job) for job in jobs if job not in forgotten]
                write_text(self.folder / "queue.json", json.dumps(kept, indent=1))


def birth_of(pid: int) -> float | None:
    """When a process was born; None if there is none, or only what is left of one."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def last_words(log: Path) -> str:
    """The error's sentence in a log, or else its last line."""
    try:
        text = log.read_bytes()[-20_000:].decode("utf-8", "replace")
    except OSError:
        return ""
    _, found, sentence = text.rpartition("error: ")
    if found:
        return sentence.strip()
    lines = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _running(jobs: Sequence[Job], name: str) -> int | None:
    places = (i for i, job in enumerate(jobs) if job.name == name and job.state == RUNNING)
    return next(places, None)


def _interrupt(job: Job) -> None:
    if job.is_alive and job.pid is not None:
        os.kill(job.pid, signal.SIGINT)


def _exit_code(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
