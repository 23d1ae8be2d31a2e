"""What could fail at the end of a run is checked before it begins."""

from pathlib import Path

import pytest

from adjointdpm import errors
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.stored_config import read_config
from adjointdpm.support.files import cut_to_bytes, read_bounded, safe_name, write_text
from adjointdpm.support.json_file import read_json, read_json_lines

RUN = {"task": "embed"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("o\udcff/x", r"holds bytes that are no UTF-8 text"),
        ("a\0b", "null character"),
        ("x" * 256, "has 256 bytes"),
        ("ä" * 130, "has 260 bytes"),
        ("/".join(["y" * 200] * 20), "a path has at most"),
    ],
)
def test_a_folder_in_which_files_could_not_be_made(tmp_path, name: str, message: str) -> None:
    with pytest.raises(errors.OutputError, match=message):
        RunFolder.open(tmp_path / name, RUN)
    assert [*tmp_path.iterdir()] == []


def test_a_setting_that_is_no_text(tmp_path) -> None:
    with pytest.raises(errors.InvalidInputError, match=r"outer\.token='<\\udcff>'"):
        RunFolder.open(tmp_path / "run", {"outer": {"token": "<\udcff>"}})
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(errors.OutputError, match="is no text"):
        write_text(tmp_path / "x", "\udcff")


def test_a_disk_that_is_full(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(errors.OutputError, match="MB are free"):
        RunFolder.open(tmp_path / "run", RUN)
    assert [*tmp_path.iterdir()] == []


def test_names_of_files_are_bounded_in_bytes() -> None:
    assert len(safe_name("😀a" * 60).encode()) <= 60
    assert cut_to_bytes("ää", 3) == "ä"
    assert cut_to_bytes("a\udcffb") == "ab"


def test_reading_is_bounded(tmp_path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"x" * 11)
    assert read_bounded(file, 11) == b"x" * 11
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_bounded(file, 10)
    for path in (Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match=r"no file|Is a directory"):
            read_bounded(path, 10)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\udcff"])
def test_json_that_is_damaged_names_the_file(tmp_path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(errors.CheckpointError, match=r"x\.json"):
        read_json(file)
    file.write_bytes(b"{}\n" + text.encode(errors="surrogateescape") + b"\n{}\n")
    with pytest.raises(errors.CheckpointError, match=r"x\.json"):
        read_json_lines(file)


@pytest.mark.parametrize(
    "text",
    ["a: &a [1, 1]\nb: *a\n", "[" * 5_000, "- 1\n", "a: b: c", "a: !!python/object:os.x {}", "\0"],
)
def test_a_config_that_no_run_wrote(tmp_path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(errors.CheckpointError, match=r"config\.yaml"):
        read_config(tmp_path / "config.yaml")


def test_what_is_in_a_config_twice_is_written_out(tmp_path) -> None:
    prompts = ["a", "b"]
    folder = RunFolder.open(tmp_path / "run", {"prompts": prompts, "held_out": prompts})
    assert read_config(folder.path / "config.yaml") == {"prompts": prompts, "held_out": prompts}
