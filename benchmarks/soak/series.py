"""One run that is killed at random moments, resumed until it ends, and compared."""

import random
import shutil
import signal
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adjointdpm.errors import AdjointDPMError
from benchmarks.soak.commands import COMMANDS, write_inputs
from benchmarks.soak.compare import contents, differences
from benchmarks.soak.process import Ended, run_command

_EARLIEST = 0.2  # seconds; before that no command has done anything


class UnkilledRunError(AdjointDPMError):
    """A run that nobody killed did not come to its end."""


@dataclass
class Reference:
    """The run of a task that nobody killed.

    Args:
        seconds: that it took.
        contents: see `contents`.

    """

    seconds: float
    contents: dict[str, str]


@dataclass
class Series:
    """What came of a run that was killed.

    Args:
        task: its name.
        seed: decides when it is killed.
        kills: after how many seconds of each process.
        saved: for each kill, whether the run had saved anything by then.
        end: "same", "different", or "failed".
        why: the files that differ, or the last words of the command that failed.

    """

    task: str
    seed: int
    kills: list[float] = field(default_factory=list)
    saved: list[bool] = field(default_factory=list)
    end: str = "same"
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """As it is kept."""
        return asdict(self) | {"kills": [round(seconds, 2) for seconds in self.kills]}


def reference(task: str) -> Reference:
    """Run a task to its end.

    Raises:
        UnkilledRunError: it did not get there.

    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_inputs(path)
        ended = run_command(COMMANDS[task], path)
        if ended.code != 0:
            raise UnkilledRunError(f"{task} ended with exit code {ended.code}: {ended.said}")
        return Reference(ended.seconds, contents(path / "run"))


def killed_run(task: str, seed: int, expected: Reference, kills: int) -> Series:
    """Kill a run at most so many times, let it end, and compare it."""
    drawn, series = random.Random(f"{task} {seed}"), Series(task, seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_inputs(path)
        ended = _attempt(task, path, None if kills == 0 else _moment(drawn, expected))
        while ended.code == -signal.SIGKILL:
            series.kills.append(ended.seconds)
            series.saved.append(any((path / "run" / "checkpoint").rglob("*.safetensors")))
            more = len(series.kills) < kills
            ended = _attempt(task, path, _moment(drawn, expected) if more else None)
        if ended.code != 0:
            series.end, series.why = "failed", f"exit code {ended.code}: {ended.said}"
        elif found := differences(expected.contents, contents(path / "run")):
            series.end, series.why = "different", ", ".join(found)
            _keep(path / "run", f"{task}-{seed}")
    return series


def _moment(drawn: random.Random, expected: Reference) -> float:
    return drawn.uniform(_EARLIEST, expected.seconds)


def _attempt(task: str, path: Path, kill_after: float | None) -> Ended:
    resume = ["--resume"] if (path / "run" / "run.json").exists() else []
    return run_command([*COMMANDS[task], *resume], path, kill_after=kill_after)


def _keep(folder: Path, name: str) -> None:
    """Keep a run that came out different, to look at."""
    kept = Path(tempfile.gettempdir(), "soak-different", name)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept)
