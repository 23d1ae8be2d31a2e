"""Checkpoints that are damaged, or say what no run says: the newest good one is used."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adjointdpm import errors, metrics
from adjointdpm.optimization.loop import Outcome, Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.support import tensor_file
from adjointdpm.variables import Example
from helpers.toys import Tint, ToyModel

SETTINGS = Settings(iterations=4, batch=1, lr=0.1, preservation=0.0, checkpoint_every=1)


def learn(folder: Path, resume: bool = False) -> tuple[torch.Tensor, Outcome]:
    variable = Tint()
    outcome = optimize(
        MetricObjective(Renderer(ToyModel()), metrics.resolve(lambda x: x[:, 1].mean((1, 2)))),
        variable,
        [Example("a", 0), Example("b", 1)],
        [Example("a", 2)],
        SETTINGS,
        checkpoints=Checkpoints(folder),
        resume=resume,
    )
    return variable.color.detach().clone(), outcome


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


def newest(folder: Path) -> Path:
    return sorted(folder.iterdir())[-1]


def assert_the_one_before_is_used(folder: Path, field: str) -> None:
    """The newest checkpoint was spoilt: the message names it and the field, the result is right."""
    expected, whole = learn(folder.parent / "whole")
    file = newest(folder)
    with pytest.warns(errors.AdjointDPMWarning, match=f"(?s){file.name}.*{field}.*the one before"):
        color, outcome = learn(folder, resume=True)
    assert torch.equal(color, expected)
    assert without_times(outcome.history) == without_times(whole.history)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step_scale", None),
        ("optimizer", None),
        ("history", None),
        ("iteration", "four"),
        ("iteration", True),
        ("iteration", 3),
        ("best_objective", 1.0),
        ("best_objective", "nan"),
        ("seconds", float("inf")),
        ("optimizer", {"class": "SGD"}),
        ("optimizer", []),
        ("history", {}),
        ("history", [{"iteration": 0}]),
    ],
)
def test_facts_that_are_missing_or_of_another_kind(tmp_path, field: str, value: object) -> None:
    learn(tmp_path / "run")
    file = newest(tmp_path / "run")
    tensors, facts = tensor_file.read(file)
    facts = {key: facts[key] for key in facts if key != field or value is not None}
    facts |= {} if value is None else {field: value}
    tensor_file.write(file, tensors, facts)
    named = "history" if (field, value) == ("iteration", 3) else field
    assert_the_one_before_is_used(tmp_path / "run", named)


@pytest.mark.parametrize("name", ["best/", "optimizer/"])
def test_a_tensor_that_is_missing(tmp_path, name: str) -> None:
    learn(tmp_path / "run")
    file = newest(tmp_path / "run")
    tensors, facts = tensor_file.read(file)
    tensor_file.write(file, {k: v for k, v in tensors.items() if not k.startswith(name)}, facts)
    assert_the_one_before_is_used(
        tmp_path / "run", "best" if name == "best/" else "optimizer/state"
    )


def test_one_bit_of_a_tensor_or_of_the_facts(tmp_path) -> None:
    learn(tmp_path / "run")
    file = newest(tmp_path / "run")
    whole = file.read_bytes()
    file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 4]) + whole[-2:])
    with pytest.raises(errors.CheckpointError, match="checksum of its tensors"):
        tensor_file.read(file)
    assert_the_one_before_is_used(tmp_path / "run", "checksum of its tensors")
    learn(tmp_path / "other")
    file = newest(tmp_path / "other")
    file.write_bytes(file.read_bytes().replace(b'step_scale\\": 1.0', b'step_scale\\": 2.0'))
    assert_the_one_before_is_used(tmp_path / "other", "checksum of its facts")


def test_a_file_that_somebody_wrote_again_without_its_checksum(tmp_path) -> None:
    learn(tmp_path / "run")
    file = newest(tmp_path / "run")
    facts = json.dumps(tensor_file.read(file)[1])
    save_file(load_file(file), file, {"facts": facts})
    assert_the_one_before_is_used(tmp_path / "run", "no checksum")


def test_the_history_comes_from_the_checkpoint(tmp_path) -> None:
    _, whole = learn(tmp_path / "run")
    assert [record["iteration"] for record in whole.history] == [0, 1, 2, 3, 4]
    assert tensor_file.read(newest(tmp_path / "run"))[1]["history"] == whole.history


def test_without_a_checkpoint_a_resumed_run_starts(tmp_path) -> None:
    expected, _ = learn(tmp_path / "whole")
    assert torch.equal(learn(tmp_path / "none", resume=True)[0], expected)


def test_where_no_checkpoint_can_be_used_the_advice_can_be_followed(tmp_path) -> None:
    learn(tmp_path)
    files = sorted(tmp_path.iterdir())
    for file in files:
        file.write_bytes(b"x" * 100)
    with (
        pytest.warns(errors.AdjointDPMWarning, match=files[1].name),
        pytest.raises(errors.CheckpointError, match=f"{files[0].name}.*--force in place"),
    ):
        learn(tmp_path, resume=True)


def test_a_disk_without_room_for_the_states_is_refused_before_the_first(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(errors.OutputError, match="the run's state, saved 3 times, needs"):
        learn(tmp_path / "run")
    assert not (tmp_path / "run").exists()
