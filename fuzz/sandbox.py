"""Cases run in processes of their own, forked from one that has imported everything.

A process is a few milliseconds' work, so whatever a case does to it stays there: exits, settings
of torch, changed folders, threads. Its memory is bounded, and it is killed when it takes too long.
"""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fuzz.verdict import Verdict, raised

GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """What a case may take.

    Args:
        seconds: of the processor, until it is killed; a quarter of that if it only waits, for a
            machine may be busy with other things.
        memory: bytes beyond what the process has when it begins.

    """

    seconds: float = 60.0
    memory: int = 4 * GIB


@dataclass
class Running:
    """A case at work.

    Args:
        number: of the case.
        folder: its working directory.
        began: when.
        used: seconds of the processor.
        moved: when it last used the processor.

    """

    number: int
    folder: Path
    began: float
    used: float = 0.0
    moved: float = 0.0

    def look(self, process: int) -> None:
        """Note how much of the processor the process has used."""
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if used > self.used or fields[0] == "R":
            self.used, self.moved = used, time.monotonic()


def run_all(
    works: Iterable[Callable[[], Verdict]], limits: Limits, jobs: int = 2
) -> Iterator[tuple[int, Verdict, float]]:
    """Run functions in processes of their own, as many at once as there are jobs.

    Args:
        works: functions of no arguments, which run in an empty working directory.
        limits: what each may take.
        jobs: how many run at once.

    Yields:
        Number, verdict and seconds of each, as they end.

    """
    waiting, running = enumerate(works), dict[int, Running]()
    try:
        while True:
            while len(running) < jobs and (following := next(waiting, None)) is not None:
                number, work = following
                folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
                now = time.monotonic()
                running[_fork(work, folder, limits)] = Running(number, folder, now, moved=now)
            if not running:
                return
            for process in list(running):
                found = _look(process, running[process], limits)
                if found is not None:
                    case = running.pop(process)
                    shutil.rmtree(case.folder, ignore_errors=True)
                    yield case.number, found, time.monotonic() - case.began
            time.sleep(0.01)
    finally:
        for process, case in running.items():
            _kill(process)
            shutil.rmtree(case.folder, ignore_errors=True)


def _look(process: int, case: Running, limits: Limits) -> Verdict | None:
    """The verdict of a process that has ended or must; None of one that is at work."""
    ended, status = os.waitpid(process, os.WNOHANG)
    if not ended:
        case.look(process)
        waited = time.monotonic() - case.moved
        if case.used < limits.seconds and waited < limits.seconds / 4:
            return None
        _kill(process)
        return Verdict("hang", f"{case.used:.0f} s at work, {waited:.0f} s waiting")
    kept = case.folder / "verdict.json"
    if kept.is_file():
        return Verdict(**json.loads(kept.read_text()))
    text = (case.folder / "work" / "output").read_text(errors="replace")
    return Verdict("crash", f"the process ended with status {status}: {text}")


def _kill(process: int) -> None:
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)


def _fork(work: Callable[[], Verdict], folder: Path, limits: Limits) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        os.setpgid(process, process)
        return process
    try:
        os.setpgid(0, 0)
        _work(work, folder, limits)
    finally:
        os._exit(0)


def _work(work: Callable[[], Verdict], folder: Path, limits: Limits) -> None:
    """Run the function in the child, and leave its verdict as a file."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    place = folder / "work"
    place.mkdir()
    os.chdir(place)
    output = os.open("output", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    most = _virtual_memory() + limits.memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        verdict = work()
    except BaseException as error:
        verdict = raised(error)
    # What is printed by accident may be endless, and need not be text.
    kept: dict[str, Any] = asdict(Verdict(verdict.end, verdict.why[-6000:]))
    (folder / "verdict.json.part").write_text(json.dumps(kept), encoding="utf-8")
    os.replace(folder / "verdict.json.part", folder / "verdict.json")


def _virtual_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
