"""Pictures that a run reads: a run goes on with those with which it began, or not at all."""

import hashlib
from pathlib import Path

import pytest

from adjointdpm.errors import CheckpointError
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.input_files import picture_digests

FACTS = {"task": "stylize", "steps": 3}


@pytest.mark.parametrize(
    "settings",
    [
        {"style": "{file}"},
        {"metric": ["color:mood=dusk", "reference:reference={file}"]},
        {"metric": ["reference:size=64,reference='{file}'"]},
        {"metric": ['pair:before="{file}",after=none.png']},
        {"pipeline_arg": ["height=64", "image={file}"]},
        {"pipeline_arg": {"image": "{file}"}},
    ],
)
def test_pictures_are_found_wherever_settings_name_them(tmp_path, settings) -> None:
    file = tmp_path / "style.PNG"
    file.write_bytes(b"picture")

    def filled(value):
        if isinstance(value, dict):
            return {name: filled(entry) for name, entry in value.items()}
        return [*map(filled, value)] if isinstance(value, list) else value.format(file=file)

    expected = {str(file): hashlib.sha256(b"picture").hexdigest()}
    assert picture_digests(filled(settings)) == expected


def test_what_is_no_picture_is_not_read(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("metric.py").write_text("")
    Path("folder.png").mkdir()
    settings = {"metric": ["metric.py:score"], "a": "folder.png", "b": "none.png", "c": 3}
    assert picture_digests(settings | {"d": "\0.png", "prompts": ["a fox", "a.b"]}) == {}


def test_a_run_goes_on_only_with_the_pictures_of_its_start(tmp_path) -> None:
    style = tmp_path / "style.png"
    style.write_bytes(b"first")

    def opened(resume: bool) -> RunFolder:
        inputs = picture_digests({"style": str(style)})
        return RunFolder.open(tmp_path / "run", FACTS, resume=resume, inputs=inputs)

    folder = opened(resume=False)
    folder.write_history([{"iteration": 0}])
    folder.close()
    opened(resume=True).close()
    style.write_bytes(b"second")
    with pytest.raises(CheckpointError, match=r"another content of .*style\.png.*--force"):
        opened(resume=True)
    style.unlink()
    with pytest.raises(CheckpointError, match=r"another content of .*style\.png"):
        opened(resume=True)
    style.write_bytes(b"first")
    opened(resume=True).close()
