"""The run folder as other processes see it, disks that fill up, and what `force` deletes; the rest
is in test_report.py.
"""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
import yaml

from adjointdpm import errors, load
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.files import write_bytes
from adjointdpm.variables import Example, LoRA, Noise, PromptEmbedding, TokenEmbedding, Weights

RUN = {"task": "embed", "model": "tiny"}
ARTEFACTS = (
    "learned_embeds.safetensors",
    "pytorch_lora_weights.safetensors",
    "noise.safetensors",
    "prompt_embeds.safetensors",
    "adversarial_0.1.safetensors",
    "unet",
    "stylize/",
    "audit/",
)


def test_a_folder_that_is_not_writable_drops_what_it_is_given(tmp_path) -> None:
    writer = RunFolder.open(tmp_path / "run", {"seed": 0})
    before = sorted(tmp_path.rglob("*"))
    reader = RunFolder(writer.path, writable=False)
    reader.write_history([{"iteration": 0}])
    assert reader.write_result({"task": "x"}) == writer.path / "result.json"
    assert reader.write_images(["a"], torch.zeros(1, 3, 4, 4)) == [writer.path / "images" / "a.png"]
    assert sorted(tmp_path.rglob("*")) == before
    writer.write_history([{"iteration": 0}])
    assert reader.read_history() == [{"iteration": 0}]


def test_trackers_write_into_the_folder_and_only_when_they_start(tmp_path) -> None:
    folder = RunFolder.open(tmp_path / "run", {})
    trackers = folder.trackers(["tensorboard", "tensorboard"])
    assert trackers.names == ["tensorboard"]
    assert trackers.folder == folder.path / "trackers"
    assert not trackers.folder.exists()


def test_a_tracker_whose_package_is_missing_is_refused_with_what_installs_it(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(errors.InvalidInputError, match=r'pip install "adjointdpm\[tensorboard\]"'):
        RunFolder.open(tmp_path / "run", {}).trackers(["tensorboard"])


@pytest.mark.parametrize("write", ["write_history", "write_result"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, write: str) -> None:
    folder = RunFolder.open(tmp_path / "run", {})
    getattr(folder, write)([{"iteration": 0}])
    before = {path: path.read_bytes() for path in folder.path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.OutputError, match="No space left"):
        getattr(folder, write)([{"iteration": 0}, {"iteration": 1}])
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before


def test_a_run_of_other_settings_is_not_resumed(tmp_path) -> None:
    config = {"optimisation": {"accumulate": 1, "ema": 0.0}}
    RunFolder.open(tmp_path / "run", config)
    with pytest.raises(
        errors.CheckpointError, match=r"config \(optimisation.accumulate: 1 then, 2 now\)"
    ):
        RunFolder.open(
            tmp_path / "run", {"optimisation": {"accumulate": 2, "ema": 0.0}}, resume=True
        )


def test_a_run_that_was_refused_before_it_began_is_not_in_the_way_of_the_next(tmp_path) -> None:
    RunFolder.open(tmp_path / "run", RUN | {"token": "red"})
    folder = RunFolder.open(tmp_path / "run", RUN | {"token": "<red>"})
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["token"] == "<red>"
    folder.write_history([{"iteration": 0}])
    with pytest.raises(errors.OutputError, match="not empty"):
        RunFolder.open(tmp_path / "run", RUN)


FOREIGN = (
    "mine: 1\n",
    "- no mapping\n",
    "{no yaml",
    "task: embed\n",
    "model: tiny\ntask: embed\n",
    "\xff\xfe",
)


@pytest.mark.parametrize("content", FOREIGN)
def test_a_config_of_something_else_is_not_touched(tmp_path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content, "latin-1")
    with pytest.raises(errors.OutputError, match="not empty"):
        RunFolder.open(tmp_path, RUN)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(errors.OutputError, match="no run"):
        RunFolder.open(tmp_path, RUN, force=True)
    with pytest.raises(errors.CheckpointError):
        RunFolder.open(tmp_path, RUN, resume=True)
    assert (tmp_path / "config.yaml").read_text("latin-1") == content
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def finished(path: Path, part: bool = False, **config: str) -> RunFolder:
    """A folder with something of all that runs write."""
    model = load("tiny")
    folder = RunFolder.open(path, RUN | config, artefacts=ARTEFACTS, part=part)
    folder.write_history([{"iteration": 0}])
    folder.write_result({"token": "<old>"})
    folder.write_images(["a"], torch.zeros(1, 3, 4, 4))
    folder.checkpoints.write(1, {"x": torch.zeros(1)}, {})
    trackers = folder.trackers(["tensorboard"])
    trackers.log({"iteration": 0, "metric": 1.0})
    trackers.finish()
    noise = Noise([Example("a", 0)], model.noise(1, 0), within="shell")
    word, embedding = TokenEmbedding(model.pipe, "<t>", "gray"), PromptEmbedding(model, "a")
    for variable in (noise, word, embedding, Weights(model.pipe)):
        variable.save(path)
    with LoRA(load("tiny").pipe) as lora:
        lora.save(path)
    (path / "report.html").write_text("")
    (path / "adversarial_0.1.safetensors").write_text("")
    return folder


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "run.lock"
    }


def test_force_deletes_a_run_when_the_next_has_something_to_write_and_nothing_else_ever(
    tmp_path,
) -> None:
    path = tmp_path / "run"
    finished(path)
    finished(path / "stylize", part=True, task="stylize")
    (path / "audit").mkdir()
    (path / "audit" / "config.yaml").write_text("mine: 1")
    (path / "adversarial_0.2.safetensors").write_text("mine")
    (path / "notes.txt").write_text("mine")
    before = contents(path)
    assert len(before) > 20
    folder = RunFolder.open(path, RUN | {"seed": 1}, force=True)
    assert folder.read_history() == []
    RunFolder(path, writable=False).write_history([{"iteration": 0}])
    assert contents(path) == before
    folder.write_history([{"iteration": 1}])
    assert contents(path).keys() == {
        "run.json",
        "config.yaml",
        "history.jsonl",
        "notes.txt",
        "audit/config.yaml",
        "adversarial_0.2.safetensors",
    }
    assert not (path / "stylize").exists()
    assert yaml.safe_load((path / "config.yaml").read_text())["seed"] == 1
    folder.write_result({})
    assert folder.read_history() == [{"iteration": 1}]


@pytest.mark.parametrize("part", [False, True])
def test_a_deletion_that_was_interrupted_can_be_repeated(tmp_path, monkeypatch, part: bool) -> None:
    path = tmp_path / "run"
    RunFolder.open(path, RUN, artefacts=["part/"]).write_result({})
    inner = path / "part" if part else path
    RunFolder.open(path / "part", RUN, part=True).write_result({})
    RunFolder(inner).write_images(["a"], torch.zeros(1, 3, 4, 4))

    def interrupt(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupt)
        folder = RunFolder.open(path, RUN, force=True)
        with pytest.raises(KeyboardInterrupt):
            folder.begin()
    RunFolder.open(path, RUN, force=True).begin()
    assert contents(path).keys() == {"run.json", "config.yaml"}


OUTSIDE = ("../mine", "/tmp/mine", "a/../../mine", "", ".", "config.yaml", "run.json/", "..")


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_artefact_outside_the_folder_is_refused(tmp_path, name: str) -> None:
    with pytest.raises(errors.InvalidInputError, match="within the run folder"):
        RunFolder.open(tmp_path / "run", RUN, artefacts=[name])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("artefacts", [*([name] for name in OUTSIDE), [1], "a", None])
def test_a_mark_that_names_what_no_run_writes_marks_no_run(tmp_path, artefacts: object) -> None:
    (tmp_path / "mine").write_text("years of work")
    path = tmp_path / "run"
    RunFolder.open(path, RUN).write_result({})
    mark = {"program": "adjointdpm", "artefacts": artefacts}
    (path / "run.json").write_text(json.dumps(mark))
    before = contents(tmp_path)
    with pytest.raises(errors.OutputError, match="no run"):
        RunFolder.open(path, RUN, force=True)
    assert contents(tmp_path) == before


def test_an_artefact_behind_a_link_out_of_the_folder_is_kept(tmp_path) -> None:
    path, mine = tmp_path / "run", tmp_path / "mine"
    RunFolder.open(path, RUN, artefacts=["sub/noise", "part/"]).write_result({})
    RunFolder.open(mine, RUN).write_result({})
    (mine / "noise").write_text("mine")
    for name in ("sub", "part"):
        (path / name).symlink_to(mine)
    before = contents(mine)
    RunFolder.open(path, RUN, force=True).begin()
    assert contents(mine) == before


def test_a_folder_that_holds_only_the_beginning_of_a_config_is_empty(tmp_path) -> None:
    (tmp_path / ".config.yaml.0123abcd").write_text("tas")
    (tmp_path / ".run.json.0123abcd").write_text("{")
    RunFolder.open(tmp_path, RUN)
    assert (tmp_path / "config.yaml").is_file()


def test_a_link_to_a_run_folder_is_followed_and_kept(tmp_path) -> None:
    run, link = tmp_path / "run", tmp_path / "link"
    link.symlink_to(run)
    with pytest.raises(errors.OutputError, match="leads nowhere"):
        RunFolder.open(link, RUN)
    RunFolder.open(run, RUN).write_result({})
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "mine.png").write_text("")
    (run / "images").symlink_to(tmp_path / "pictures")
    RunFolder.open(link, RUN, force=True).write_history([])
    assert link.is_symlink()
    assert contents(run).keys() == {"run.json", "config.yaml", "history.jsonl"}
    assert (tmp_path / "pictures" / "mine.png").exists()


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(
    tmp_path, monkeypatch
) -> None:
    RunFolder.open(tmp_path, RUN).write_result({})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(errors.OutputError, match="Permission denied"):
        RunFolder.open(tmp_path, RUN, force=True)


def test_an_interrupted_write_leaves_no_file_of_its_own(tmp_path, monkeypatch) -> None:
    folder = RunFolder.open(tmp_path, RUN)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        folder.write_result({})
    assert contents(tmp_path).keys() == {"run.json", "config.yaml"}


def test_files_get_the_rights_that_the_user_wants_and_others_are_never_given_more(
    tmp_path, monkeypatch
) -> None:
    former = os.umask(0o027)
    try:
        monkeypatch.setattr(
            os, "umask", None
        )  # a file that another thread makes at that moment would have the wrong rights
        path = write_bytes(tmp_path / "file", b"")
    finally:
        monkeypatch.undo()
        os.umask(former)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
