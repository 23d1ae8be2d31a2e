"""Runs that are killed and compared: what counts as the same, and that processes are killed."""

import json
import signal
from pathlib import Path

import pytest

from benchmarks.soak.compare import contents, differences
from benchmarks.soak.page import page_of
from benchmarks.soak.process import run_command
from benchmarks.soak.series import Reference, Series, killed_run


def run_folder(path: Path, loss: float = 0.5, seconds: float = 1.0, learned: bytes = b"1") -> Path:
    (path / "checkpoint").mkdir(parents=True)
    (path / "checkpoint" / "state").write_text(str(seconds))
    (path / "learned.safetensors").write_bytes(learned)
    result = {"metric": {"after": loss}, "seconds": seconds, "network_calls": int(seconds)}
    (path / "result.json").write_text(json.dumps(result))
    lines = [{"iteration": i, "loss": loss, "seconds": seconds} for i in range(2)]
    (path / "history.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_numbers_and_files_must_be_the_same_and_times_need_not(tmp_path) -> None:
    one = contents(run_folder(tmp_path / "one"))
    assert differences(one, contents(run_folder(tmp_path / "two", seconds=9.0))) == []
    other = contents(run_folder(tmp_path / "three", loss=0.6))
    assert differences(one, other) == ["history.jsonl", "result.json"]
    other = contents(run_folder(tmp_path / "four", learned=b"2"))
    assert differences(one, other) == ["learned.safetensors"]
    assert differences(one, {}) == sorted(one)


def test_a_command_ends_or_is_killed(tmp_path) -> None:
    ended = run_command(["report", "nowhere"], tmp_path)
    assert ended.code == 2
    assert "holds no finished run" in ended.said
    assert run_command(["report", "nowhere"], tmp_path, kill_after=0).code == -signal.SIGKILL


def test_a_command_that_fails_is_a_failed_series(monkeypatch) -> None:
    monkeypatch.setitem(killed_run.__globals__["COMMANDS"], "embed", ["report", "nowhere"])
    series = killed_run("embed", 1, Reference(1.0, {}), 0)
    assert (series.end, series.kills) == ("failed", [])
    assert "holds no finished run" in series.why


@pytest.mark.parametrize("end", ["same", "different"])
def test_the_page_counts_and_names_what_differs(end: str) -> None:
    series = [
        Series("embed", -1),
        Series("embed", 1, [1.0, 2.0], [False, True], end, "" if end == "same" else "result.json"),
    ]
    kept = {"seconds": {"embed": 3.2}, "date": "2026-01-01", "machine": "a machine"}
    page = page_of(kept | {"series": [one.as_json() for one in series]})
    assert "2 processes were killed in 1 runs" in page
    same = 1 if end == "same" else 0
    assert f"| embed | 3 | 1 | 2 | 1 | {same} of 1 |" in page
    assert ("embed, seed 1: different: result.json" in page) == (end == "different")
