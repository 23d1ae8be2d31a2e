"""Two real processes audit what one audits; they stop and fail together; others may go on."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from adjointdpm.runs.interruption import Interrupted
from adjointdpm.support.distributed import Processes
from adjointdpm.tasks.audit.victims import Victim
from helpers.toy_audit import Warm, toy_audit
from helpers.two_processes import run_in_two_processes

FILES = ("findings.jsonl", "history.jsonl")
VARY = {"seconds", "peak_memory_bytes", "processes"}


class Failing(Warm):
    """Fails in the second process, once it is asked for gradients."""

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad and Processes().index == 1:
            raise ValueError("broken network")
        return super().forward(images)


def refusal(**settings: Any) -> list[str]:
    try:
        toy_audit(**settings)
    except (Exception, Interrupted) as error:
        return [type(error).__name__, str(error)]
    return ["nothing"]


def worker(out: Path) -> None:
    """What each of the two processes does."""
    processes = Processes()

    def stop(what: str, done: float, total: int) -> None:
        if processes.index == 1 and "budget" in what:
            os.kill(os.getpid(), signal.SIGTERM)

    failing = Victim("failing", Failing(), ["day", "night"], [(0,), (1,)])
    toy_audit(out / "both")
    found = {
        "stopped": refusal(path=out / "stopped", report=stop),
        "failed": refusal(path=out / "failed", victim=failing),
    }
    (out / f"found-{processes.index}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """The folder in which two processes did the same audits."""
    out = tmp_path_factory.mktemp("two")
    run_in_two_processes(__file__, out, timeout=300)
    return out


def assert_same(one: Path, other: Path) -> None:
    """Two run folders hold the same, to the bit."""
    ours, theirs = (json.loads((folder / "result.json").read_text()) for folder in (one, other))
    assert {k: v for k, v in ours.items() if k not in VARY} == {
        k: v for k, v in theirs.items() if k not in VARY
    }
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes()
    for name in ours["noises"]:
        mine, yours = load_file(one / name), load_file(other / name)
        assert all((mine[key] == yours[key]).all() for key in ("noise", "start"))
    for pattern in ("images/*.png", "training_pictures/*/*.png"):
        files = sorted(path.relative_to(one) for path in one.glob(pattern))
        assert files == sorted(path.relative_to(other) for path in other.glob(pattern))
        assert files
        assert all((one / file).read_bytes() == (other / file).read_bytes() for file in files)


@pytest.mark.slow
def test_two_processes_find_what_one_finds(two: Path, tmp_path) -> None:
    alone = toy_audit(tmp_path / "alone")
    assert 0 < alone["success"][0]["rate"] <= alone["success"][1]["rate"]
    assert json.loads((two / "both" / "result.json").read_text())["processes"] == 2
    assert_same(two / "both", tmp_path / "alone")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_one_alone_goes_on(two: Path, tmp_path) -> None:
    for rank in (0, 1):
        assert json.loads((two / f"found-{rank}.json").read_text())["stopped"][0] == "Interrupted"
    assert not (two / "stopped" / "result.json").exists()
    toy_audit(two / "stopped", resume=True)
    toy_audit(tmp_path / "alone")
    assert_same(two / "stopped", tmp_path / "alone")


@pytest.mark.slow
def test_a_failure_in_one_process_ends_both(two: Path) -> None:
    for rank in (0, 1):
        kind, text = json.loads((two / f"found-{rank}.json").read_text())["failed"]
        assert (
            kind == ("RuntimeError", "ModelError")[rank]
            or kind == ("ModelError", "RuntimeError")[rank]
        )
        assert "broken network" in text


if __name__ == "__main__":
    worker(Path(sys.argv[1]))
