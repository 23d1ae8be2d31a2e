"""One run at a time in a run folder; a dead process never stands in the way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adjointdpm import errors
from adjointdpm.runs import lock
from adjointdpm.runs.folder import RunFolder

RUN = {"task": "embed"}
HOLD = """
import sys, time
from pathlib import Path
from adjointdpm.runs.lock import RunLock
held = RunLock.of(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path], "subprocess.Popen[str]"]]:
    """Lets another process hold the lock of a folder."""
    started = []

    def start(folder: Path) -> "subprocess.Popen[str]":
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-c", HOLD, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"force": True}])
def test_a_second_run_is_refused_and_told_of_the_first(tmp_path, hold, flags: dict) -> None:
    RunFolder.open(tmp_path / "run", RUN).close()
    other = hold(tmp_path / "run")
    if flags:
        (tmp_path / "run" / "history.jsonl").write_text("")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(errors.OutputError, match=rf"in use by another run \(process {other.pid} "):
        RunFolder.open(tmp_path / "run", RUN, **flags)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_the_lock_of_a_killed_process_stands_in_nobodys_way(tmp_path, hold) -> None:
    other = hold(tmp_path / "run")
    assert json.loads((tmp_path / "run" / lock.NAME).read_text())["pid"] == other.pid
    other.send_signal(signal.SIGKILL)
    other.wait()
    folder = RunFolder.open(tmp_path / "run", RUN)
    assert json.loads((folder.path / lock.NAME).read_text())["pid"] == os.getpid()


def test_the_lock_is_given_back(tmp_path) -> None:
    folder = RunFolder.open(tmp_path / "run", RUN)
    assert (folder.path / lock.NAME).exists()
    folder.close()
    assert not (folder.path / lock.NAME).exists()
    folder = RunFolder.open(tmp_path / "run", RUN)
    path = folder.path / lock.NAME
    del folder  # as at the end of a function
    assert not path.exists()


def test_within_a_process_the_lock_is_shared(tmp_path) -> None:
    one = RunFolder.open(tmp_path / "run", RUN)
    other = RunFolder.open(tmp_path / "run", RUN)
    path = one.path / lock.NAME
    del one
    assert path.exists()
    del other
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "host": 3}', "\x00" * 200_000])
def test_a_file_that_says_nothing_is_no_lock(tmp_path, content: str) -> None:
    (tmp_path / lock.NAME).write_text(content)
    assert RunFolder.open(tmp_path, RUN).path == tmp_path


def test_where_the_system_has_no_locks_the_file_is_believed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    who = {"host": lock.platform.node(), "pid": os.getpid(), "start": "today", "command": "x"}
    (tmp_path / lock.NAME).write_text(json.dumps(who))
    with pytest.raises(errors.OutputError, match="in use by another run"):
        RunFolder.open(tmp_path, RUN)
    # The number was given to another process since.
    who["process_start"] = time.time() - 1e6
    (tmp_path / lock.NAME).write_text(json.dumps(who))
    assert RunFolder.open(tmp_path, RUN).path == tmp_path


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path) -> None:
    (tmp_path / "mine").write_text("years of work")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(errors.OutputError, match="cannot write into"):
        RunFolder.open(tmp_path / "run", RUN)
    assert (tmp_path / "mine").read_text() == "years of work"
