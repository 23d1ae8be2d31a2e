"""Files of adversarial noise that come from somebody else."""

import json
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import save_file

from adjointdpm import errors
from adjointdpm.tasks.audit.noise_file import chosen, read_findings, replay_command
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
        ({"model": 5}, "model must be a text, not 5"),
        ({"victim": None}, "victim"),
        ({"prompts": "a"}, "prompts"),
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"guidance_scale": math.inf}, "guidance_scale"),
        ({"sampler": ["euler"]}, "sampler"),
        ({"examples": [["a", math.inf]]}, "examples"),
        ({"examples": [["a"]]}, "examples"),
        ({"labels": [1]}, "labels"),
        ({"verdicts": []}, "one label and one verdict"),
    ],
)
def test_findings_with_impossible_facts_are_refused(tmp_path, change: dict, message: str) -> None:
    assert read_findings(findings(tmp_path / "good.safetensors", WHOLE, ONE)).facts["steps"] == 3
    with pytest.raises(errors.CheckpointError, match=message):
        read_findings(findings(tmp_path / "bad.safetensors", WHOLE | change, ONE))


@pytest.mark.parametrize("name", WHOLE)
def test_findings_without_a_fact_are_refused(tmp_path, name: str) -> None:
    facts = {key: value for key, value in WHOLE.items() if key != name}
    with pytest.raises(errors.CheckpointError, match=f"{name}.*missing"):
        read_findings(findings(tmp_path / "bad.safetensors", facts, ONE))


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
