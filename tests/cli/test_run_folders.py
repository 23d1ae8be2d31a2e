"""What commands do with run folders: refuse, go on, and say what to do next."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adjointdpm import errors
from helpers.commands import EMBED, SMALL, run

# The small tokenizer knows four words.

RUN = (*EMBED, *SMALL, "--checkpoint-every", 1, "--out", "run")


def contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def history() -> list[dict]:
    lines = Path("run/history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture
def finished(files, monkeypatch, capsys) -> list[dict]:
    """A finished run in the folder run, and its history."""
    code, _, err = run(monkeypatch, capsys, *RUN)
    assert code == 0, err
    return history()


def test_force_refuses_a_folder_of_runs(finished, monkeypatch, capsys) -> None:
    Path("runs").mkdir()
    shutil.move("run", "runs/mine")
    before = contents(Path("runs"))
    code, _, err = run(monkeypatch, capsys, *EMBED, *SMALL, "--out", "runs", "--force")
    assert code == 2
    assert "runs holds no run of adjointdpm" in err
    assert contents(Path("runs")) == before


@pytest.mark.parametrize("flag", [(), ("--force",), ("--resume",)])
def test_a_second_run_in_the_same_folder_is_refused(finished, monkeypatch, capsys, flag) -> None:
    hold = "import sys; from pathlib import Path; from adjointdpm.runs.lock import RunLock\n"
    hold += "held = RunLock.of(Path('run')); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        before = contents(Path("run"))
        code, _, err = run(monkeypatch, capsys, *RUN, *flag)
        assert code == 2
        assert f"in use by another run (process {first.pid}" in err
        assert contents(Path("run")) == before
        first.kill()


def test_a_run_that_was_killed_before_anything_was_saved_is_resumed(
    finished, monkeypatch, capsys
) -> None:
    shutil.rmtree("run/checkpoint")
    Path("run/result.json").unlink()
    code, _, err = run(monkeypatch, capsys, *RUN)
    assert code == 2
    assert "use --resume to go on with it" in err
    code, _, err = run(monkeypatch, capsys, *RUN, "--resume")
    assert code == 0, err
    assert "nothing was saved in run yet: the run starts from its beginning" in err
    assert history() == finished


@pytest.mark.parametrize("damage", ["empty", "a line gone", "half a line", "gone"])
def test_a_history_that_was_lost_comes_back(finished, monkeypatch, capsys, damage: str) -> None:
    path = Path("run/history.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(
        {
            "empty": "",
            "a line gone": lines[0] + lines[2],
            "half a line": lines[0] + lines[1][:9],
        }.get(damage, "")
    )
    if damage == "gone":
        path.unlink()
    code, _, err = run(monkeypatch, capsys, *RUN, "--resume")
    assert code == 0, err
    assert history() == finished


@pytest.mark.filterwarnings("always::adjointdpm.errors.AdjointDPMWarning")
def test_a_bit_that_fell_over_in_a_checkpoint_changes_nothing(
    finished, monkeypatch, capsys
) -> None:
    learned = Path("run/learned_embeds.safetensors").read_bytes()
    newest = sorted(Path("run/checkpoint").iterdir())[-1]
    content = newest.read_bytes()
    newest.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    code, _, err = run(monkeypatch, capsys, *RUN, "--resume")
    assert code == 0, err
    assert f"{newest} is damaged (the checksum of its tensors is another)" in err
    assert history() == finished
    assert Path("run/learned_embeds.safetensors").read_bytes() == learned


def test_an_interrupted_run_prints_the_command_that_goes_on(files, monkeypatch, capsys) -> None:
    Path("stop.py").write_text(
        "import os, signal\ncalls = 0\n"
        "def score(images):\n    global calls\n    calls += images.requires_grad\n"
        "    if calls == 6 and not os.path.exists('stopped'):\n"
        "        open('stopped', 'w').close()\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return images[:, 0].mean((1, 2))\n"
    )
    words = [*map(str, RUN)]
    words[words.index("--iterations") + 1] = "12"
    words[words.index("metric.py:score")] = "stop.py:score"
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 130
    assert "stopped after iteration" in err
    assert f"go on with: {shlex.join(['adjointdpm', *words])} --resume" in err
    assert not Path("run/run.lock").exists()
    command = shlex.split(err[err.index("adjointdpm embed") :])[1:]
    code, _, err = run(monkeypatch, capsys, *command)
    assert code == 0, err


def test_an_interrupted_replacement_says_that_the_former_run_is_there(
    finished, monkeypatch, capsys
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = contents(Path("run"))
    monkeypatch.setattr("adjointdpm.cli.learn.load_model", interrupted)
    code, _, err = run(monkeypatch, capsys, *RUN, "--seed", 1, "--force")
    assert code == 130
    assert "the former run in run is still there" in err
    assert err.strip().endswith("--seed 1 --force")
    assert contents(Path("run")) == before


def test_what_was_made_is_kept_when_the_report_fails(files, monkeypatch, capsys) -> None:
    def full(*_: object) -> None:
        raise errors.OutputError("cannot write report.html: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("adjointdpm.runs.report.write_text", full)
        code, _, err = run(monkeypatch, capsys, *RUN)
    assert code == 2
    assert "All else is kept in run; `adjointdpm report run` writes the report again." in err
    assert Path("run/learned_embeds.safetensors").is_file()
    code, _, err = run(monkeypatch, capsys, "report", "run")
    assert code == 0, err
    assert Path("run/report.html").is_file()


@pytest.mark.parametrize(
    ("out", "message"), [("o\udcff/x", "no UTF-8 text"), ("ü" * 150, "has 300 bytes")]
)
@pytest.mark.parametrize("command", ["embed", "generate"])
def test_a_folder_that_cannot_be_is_refused_before_the_run(
    files, monkeypatch, capsys, out: str, message: str, command: str
) -> None:
    before = sorted(os.listdir())
    words = (*EMBED, *SMALL) if command == "embed" else ("generate", "fox", "--model", "model")
    code, _, err = run(monkeypatch, capsys, *words, "--out", out)
    assert code == 2
    assert message in err
    assert sorted(os.listdir()) == before


def test_a_prompt_of_long_letters_is_drawn(files, monkeypatch, capsys) -> None:
    flags = ("--model", "model", "--steps", 1, "--batch", 1, "--device", "cpu", "--out", "drawn")
    code, _, err = run(monkeypatch, capsys, "generate", "𐐀" * 60, *flags)
    assert code == 0, err
    (picture,) = Path("drawn").iterdir()
    assert len(picture.name.encode()) < 100
    picture.unlink()
    picture.mkdir()
    code, _, err = run(monkeypatch, capsys, "generate", "𐐀" * 60, *flags, "--force")
    assert code == 2
    assert "is a folder" in err
