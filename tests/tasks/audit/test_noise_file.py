"""Files of adversarial noise that come from somebody else."""

import json
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from adjointdpm import errors
from adjointdpm.support import tensor_file
from adjointdpm.tasks.audit.noise_file import (
    chosen,
    read_findings,
    replay_command,
    write_findings,
)
from adjointdpm.variables import Example
from helpers.audits import FACTS

WHOLE = FACTS | {"examples": [["a", 0]], "labels": ["benign"], "verdicts": ["flagged"]}
ONE = torch.zeros(1, 4, 8, 8)


def findings(
    path: Path, facts: object, noise: torch.Tensor, start: torch.Tensor | None = None
) -> Path:
    if isinstance(facts, dict):
        facts = {"format": "adjointdpm-adversarial-noise"} | facts
    metadata = {"facts": json.dumps(facts)}
    save_file({"noise": noise, "start": noise.clone() if start is None else start}, path, metadata)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": 5}, "model must be a valid string, not 5"),
        ({"victim": None}, "victim"),
        ({"prompts": "a"}, "prompts"),
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"guidance_scale": math.inf}, "guidance_scale"),
        ({"sampler": ["euler"]}, "sampler"),
        ({"examples": [["a", math.inf]]}, "examples"),
        ({"examples": [["a"]]}, "examples"),
        ({"examples": [["a", -1]]}, r"examples\.0 must be a prompt and a seed"),
        ({"examples": [["a", 2**64]]}, r"examples\.0"),
        ({"steps": 10**9}, "steps must be less than or equal to"),
        ({"budget": {}}, r"budget must be a valid number, not \{\}"),
        ({"budget": -0.1}, "budget must be greater than 0"),
        ({"budget": math.inf}, "budget"),
        ({"within": []}, r"within must be 'l2' or 'linf', not \[\]"),
        ({"pipeline_arg": 3}, "pipeline_arg"),
        ({"prompts": []}, "prompts"),
        ({"labels": [1]}, "labels"),
        ({"verdicts": []}, "one label and one verdict"),
    ],
)
def test_findings_with_impossible_facts_are_refused(tmp_path, change: dict, message: str) -> None:
    assert read_findings(findings(tmp_path / "good.safetensors", WHOLE, ONE)).facts["steps"] == 3
    with pytest.raises(errors.CheckpointError, match=message):
        read_findings(findings(tmp_path / "bad.safetensors", WHOLE | change, ONE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": {}}, r"budget must be a valid number, not \{\}"),
        ({"within": []}, r"within must be 'l2' or 'linf'"),
        ({"steps": 4}, "the checksum of its facts is another"),
    ],
)
def test_facts_that_were_edited_under_their_checksum_are_refused_by_name(
    tmp_path, change: dict, message: str
) -> None:
    path = write_findings(tmp_path / "x.safetensors", [Example("a", 0)], ONE, ONE, WHOLE)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    facts = json.loads(header["__metadata__"]["facts"])
    header["__metadata__"]["facts"] = json.dumps(facts | change)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(errors.CheckpointError, match=message):
        read_findings(path)


@pytest.mark.parametrize("name", WHOLE)
def test_findings_without_a_fact_are_refused(tmp_path, name: str) -> None:
    facts = {key: value for key, value in WHOLE.items() if key != name}
    with pytest.raises(errors.CheckpointError, match=f"{name}.*missing"):
        read_findings(findings(tmp_path / "bad.safetensors", facts, ONE))


@pytest.mark.parametrize("shape", [[10**9, 0], [1, 10**9], [10**9], [2**62, 4], [-1, 4]])
def test_findings_of_impossible_sizes_are_refused_before_they_are_loaded(
    tmp_path, monkeypatch, shape: list[int]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the tensors were loaded")

    monkeypatch.setattr(tensor_file, "read", refuse)
    size = abs(math.prod(shape)) * 4
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}
    facts = json.dumps({"format": "adjointdpm-adversarial-noise"} | WHOLE)
    header = {"__metadata__": {"facts": facts}, "noise": entry, "start": entry}
    text = json.dumps(header).encode()
    path = tmp_path / "bad.safetensors"
    with path.open("wb") as file:  # with as many bytes as it says, of which the disk keeps none
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + min(size, 2**40))
    with pytest.raises(errors.CheckpointError, match=r"its noise must be|GB, and no audit"):
        read_findings(path)


@pytest.mark.parametrize("length", [0, 2**63, 10**9])
def test_a_header_of_an_impossible_length_is_refused(tmp_path, length: int) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(errors.CheckpointError, match="its header cannot have"):
        read_findings(path)


def test_one_bit_of_findings_is_noticed(tmp_path) -> None:
    path = write_findings(tmp_path / "x.safetensors", [Example("a", 0)], ONE, ONE, WHOLE)
    assert read_findings(path).examples == [Example("a", 0)]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(errors.CheckpointError, match="checksum"):
        read_findings(path)


def test_findings_of_impossible_numbers_are_refused(tmp_path) -> None:
    for noise in (torch.zeros(2, 4, 8, 8), ONE.long(), ONE * math.nan, torch.zeros(1)):
        with pytest.raises(errors.CheckpointError, match="its noise"):
            read_findings(findings(tmp_path / "bad.safetensors", WHOLE, noise))
    with pytest.raises(errors.CheckpointError, match="its start"):
        read_findings(findings(tmp_path / "bad.safetensors", WHOLE, ONE, torch.zeros(1)))
    with pytest.raises(errors.CheckpointError, match="no mapping"):
        read_findings(findings(tmp_path / "bad.safetensors", [], ONE))


@pytest.mark.parametrize("what", ["model", "victim"])
def test_a_file_chooses_only_what_comes_with_the_package(
    tmp_path, what: Literal["model", "victim"]
) -> None:
    mine = {"model": "tiny", "victim": "open-nsfw:threshold=0.5"}
    assert (
        chosen(read_findings(findings(tmp_path / "good.safetensors", WHOLE | mine, ONE)), what)
        == mine[what]
    )
    for asked in ("somebody/model", "./tiny", "/tmp/code.py:build", "a b"):
        found = read_findings(findings(tmp_path / "bad.safetensors", WHOLE | {what: asked}, ONE))
        with pytest.raises(errors.ModelError, match=f"--{what} .*{asked}"):
            chosen(found, what)
        assert chosen(found, what, "mine") == "mine"
    assert replay_command("x", **mine) == "adjointdpm audit --replay x"
    assert (
        replay_command("x", **mine | {what: "a b"}) == f"adjointdpm audit --replay x --{what} 'a b'"
    )
