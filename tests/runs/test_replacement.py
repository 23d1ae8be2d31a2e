"""`--force`: the former run comes back unless the new one has begun, and other runs are kept."""

import json
import os
from pathlib import Path

import pytest
import torch

from adjointdpm import errors
from adjointdpm.runs import replacement
from adjointdpm.runs.folder import RunFolder

RUN = {"task": "embed", "model": "tiny"}


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "run.lock"
    }


def former(path: Path) -> dict[str, bytes]:
    """A finished run with a part and somebody's notes in it, and what it holds."""
    for folder, part in ((path, False), (path / "part", True)):
        run = RunFolder.open(folder, RUN, artefacts=["sub/token", "part/"], part=part)
        run.write_history([{"iteration": 0}])
        run.write_images(["a"], torch.zeros(1, 3, 4, 4))
        (folder / "sub").mkdir()
        (folder / "sub" / "token").write_text("learned")
        (folder / "sub" / "notes").write_text("mine")
    return contents(path)


@pytest.mark.parametrize("step", ["config.yaml", "result.json", "history.jsonl"])
def test_what_cannot_be_written_brings_the_former_run_back(
    tmp_path, monkeypatch, step: str
) -> None:
    before = former(tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run", RUN | {"seed": 1}, force=True)
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == step and Path(source).name.startswith("."):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(errors.OutputError, match="No space left"):
        folder.write_result({}) if step == "result.json" else folder.write_history([])
    assert contents(tmp_path / "run") == before
    monkeypatch.undo()
    folder.write_result({})
    assert {"part/sub/notes", "sub/notes", "result.json"} < contents(tmp_path / "run").keys()
    assert "sub/token" not in contents(tmp_path / "run")


@pytest.mark.parametrize("moment", range(8))
def test_a_run_that_was_killed_while_it_was_replaced_is_put_back(
    tmp_path, monkeypatch, moment: int
) -> None:
    before = former(tmp_path / "run")
    folder = RunFolder.open(tmp_path / "run", RUN | {"seed": 1}, force=True)
    rename, count = Path.rename, 0

    def killed(path: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count > moment:
            raise SystemExit  # nothing is put right, as after SIGKILL
        return rename(path, target)

    monkeypatch.setattr(replacement, "restore", lambda folder: None)
    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(SystemExit):
        folder.begin()
    monkeypatch.undo()
    folder.close()
    with pytest.raises(errors.OutputError, match="not empty"):
        RunFolder.open(tmp_path / "run", RUN)
    assert contents(tmp_path / "run") == before
    RunFolder.open(tmp_path / "run", RUN, resume=True)


def test_a_folder_of_runs_is_no_run(tmp_path) -> None:
    former(tmp_path / "runs" / "one")
    former(tmp_path / "runs" / "two")
    before = contents(tmp_path)
    with pytest.raises(errors.OutputError, match="holds no run"):
        RunFolder.open(tmp_path / "runs", RUN, force=True)
    assert contents(tmp_path) == before
    assert not (tmp_path / "runs" / "run.lock").exists()


@pytest.mark.parametrize("place", ["images/other", "checkpoint", "unet/deep/other"])
def test_another_run_within_a_run_is_never_deleted(tmp_path, place: str) -> None:
    RunFolder.open(tmp_path, RUN, artefacts=["unet"]).write_result({})
    RunFolder.open(tmp_path / place, RUN).write_result({"mine": 1})
    before = contents(tmp_path)
    with pytest.raises(errors.OutputError, match=f"{place} is another run"):
        RunFolder.open(tmp_path, RUN, force=True)
    assert contents(tmp_path) == before


def test_a_run_of_its_own_where_a_part_would_be_is_kept(tmp_path) -> None:
    RunFolder.open(tmp_path, RUN, artefacts=["stylize/"]).write_result({})
    RunFolder.open(tmp_path / "stylize", RUN).write_result({"mine": 1})
    RunFolder.open(tmp_path, RUN, artefacts=["stylize/"], force=True).write_result({})
    assert json.loads((tmp_path / "stylize" / "result.json").read_text()) == {"mine": 1}
    with pytest.raises(errors.OutputError, match="a run of its own"):
        RunFolder.open(tmp_path / "stylize", RUN, force=True, part=True)
    assert json.loads((tmp_path / "stylize" / "result.json").read_text()) == {"mine": 1}
