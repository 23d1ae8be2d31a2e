"""The run folder as the processes that do not write see it, and a disk that fills up; the rest is in test_report.py."""

import os

import pytest
import torch
import yaml

from adjointdpm import errors
from adjointdpm.run_folder import RunFolder


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
    with pytest.raises(errors.CheckpointError, match="another config"):
        RunFolder.open(tmp_path / "run", {"optimisation": {"accumulate": 2, "ema": 0.0}}, resume=True)


def test_a_run_that_was_refused_before_it_began_is_not_in_the_way_of_the_next(tmp_path) -> None:
    RunFolder.open(tmp_path / "run", {"task": "embed", "token": "red"})
    folder = RunFolder.open(tmp_path / "run", {"task": "embed", "token": "<red>"})
    assert yaml.safe_load((folder.path / "config.yaml").read_text())["token"] == "<red>"
    folder.write_history([{"iteration": 0}])
    with pytest.raises(errors.OutputError, match="not empty"):
        RunFolder.open(tmp_path / "run", {"task": "embed"})
    for content in ("mine: 1\n", "- no mapping\n", "{no yaml"):
        other = tmp_path / content[:2]
        other.mkdir()
        (other / "config.yaml").write_text(content)
        with pytest.raises(errors.OutputError, match="not empty"):
            RunFolder.open(other, {"task": "embed"})
        assert (other / "config.yaml").read_text() == content
