"""The fuzzer's own judgement, and a share of its cases."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fuzz.__main__ import run_kind
from fuzz.drawing import KINDS, draw
from fuzz.page import kept_beside
from fuzz.sandbox import GIB, Limits, run_all
from fuzz.verdict import Done, Verdict

ROOT = Path(__file__).parents[1]


def fine() -> Verdict:
    return Verdict("worked", "fine")


def raises() -> Verdict:
    raise TypeError("raw")


def waits() -> Verdict:
    os.mkfifo("fifo")
    Path("fifo").read_text()
    return fine()


def works_for_ever() -> Verdict:
    while True:
        sum(range(10**6))


def allocates() -> Verdict:
    return Verdict("worked", str(len(bytearray(2 * GIB))))


def leaves() -> Verdict:
    os._exit(3)


def changes_its_process() -> Verdict:
    os.chdir("/")
    os.environ["CHANGED"] = "yes"
    return fine()


def test_each_end_is_seen() -> None:
    works = [fine, raises, waits, works_for_ever, allocates, leaves, changes_its_process]
    found = {number: verdict for number, verdict, _ in run_all(works, Limits(2, GIB))}
    ends = [found[number].end for number in range(len(works))]
    assert ends == ["worked", "traceback", "hang", "hang", "memory", "crash", "worked"]
    assert "TypeError: raw" in found[1].why
    assert "CHANGED" not in os.environ


def test_a_process_that_waits_is_ended_before_one_that_works() -> None:
    began = time.monotonic()
    ((_, verdict, _),) = run_all([waits], Limits(seconds=8))
    assert verdict.end == "hang"
    assert time.monotonic() - began < 8


@pytest.mark.parametrize(
    ("code", "text", "end"),
    [
        (0, "Report: x", "worked"),
        (2, "error: no such file", "refused"),
        (2, "  \n", "nothing made"),
        (1, "error", "crash"),
        (130, "interrupted", "crash"),
        (2, "Traceback (most recent call last)\nKeyError", "traceback"),
        (2, "error: it ran out of memory (…)", "memory"),
        (2, "error: \x1b[31mred", "different"),
    ],
)
def test_a_command_is_judged_by_its_exit_code_and_its_words(code, text, end) -> None:
    assert Done(code, text).verdict.end == end


@pytest.mark.parametrize("name", KINDS)
def test_a_seed_says_which_cases_there_are(name: str) -> None:
    cases = draw(name, 20, from_seed=3)
    assert cases == draw(name, 20, from_seed=3)
    assert len({str(case) for case in cases}) == 20
    assert cases != draw(name, 20, from_seed=4)


def test_kinds_that_are_not_run_again_keep_their_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.page.write_results", lambda name, content: None)
    runs = [{"a": {"hang": 1}, "b": {"worked": 2}}, {"a": {"refused": 1}, "c": {"worked": 4}}]
    kept = None
    for kinds in runs:
        kept = kept_beside(kept, {"seed": 0, "seconds": 30.0, "kinds": kinds})
    assert kept is not None
    assert kept["first"]["kinds"] == runs[0] | {"c": {"worked": 4}}
    assert kept["latest"]["kinds"] == runs[0] | runs[1]
    assert kept["latest"]["seconds"] == 60


def test_no_case_begins_after_its_time(tmp_path: Path) -> None:
    cases = dict(enumerate(draw("prompt_files", 2, from_seed=0)))
    assert not run_kind("prompt_files", cases, tmp_path, Limits(), jobs=1, within=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_a_share_of_the_cases_ends_well(name: str) -> None:
    path = os.pathsep.join(map(str, (ROOT / "src", ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", name, "--cases", "12", "--seed", "1"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
