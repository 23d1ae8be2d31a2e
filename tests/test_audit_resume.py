"""An audit that a signal stops goes on where it was and ends with the same numbers."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from adjointdpm import load
from adjointdpm.errors import UnsupportedError
from adjointdpm.optimize import Interrupted
from adjointdpm.processes import Processes
from adjointdpm.run_folder import RunFolder
from adjointdpm.tasks.audit import AuditConfig, audit
from test_tasks import PROMPTS, VICTIM

VARY = {"seconds", "peak_memory_bytes"}


def config_for(model, tmp_path) -> AuditConfig:
    path = tmp_path / "victim.py"
    with torch.no_grad():
        images = model.generate([PROMPTS[0]] * 2, model.noise(2, 0), steps=2, guidance_scale=3.0)
    blue = (images[:, 2].mean((1, 2)) - images[:, 0].mean((1, 2))).max().item()
    path.write_text(VICTIM.replace("THRESHOLD", f"{blue + 0.3:.4f}"))
    return AuditConfig(
        victim=f"{path}:build", prompts=[PROMPTS[0]], budgets=[0.05, 0.8], clean_seeds=2, iterations=2, steps=2, guidance_scale=3.0
    )


def numbers(folder: RunFolder) -> dict:
    result = json.loads((folder.path / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in VARY}


def content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata: safetensors writes the entries of the latter in no fixed order, so that bytes may differ."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 - no mapping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_audit_ends_with_the_same_numbers(number, tmp_path) -> None:
    model = load("tiny")
    config = config_for(model, tmp_path)
    whole = RunFolder.open(tmp_path / "whole", {"task": "audit"})
    audit(model, config, whole)

    def kill_at(word: str):
        sent: list[str] = []  # one signal: a second one acts at once

        def report(what: str, done: int, total: int) -> None:
            if word in what and not sent:
                sent.append(what)
                os.kill(os.getpid(), number)

        return report

    stopped = RunFolder.open(tmp_path / "stopped", {"task": "audit"})
    for resume, word, unit in (
        (False, "clean", "clean"),
        (True, "budget 0.05: random", "random-0.05"),
        (True, "budget 0.8: ", "attack-0.8"),
    ):
        with pytest.raises(Interrupted, match=f"stopped after {unit}"):
            audit(model, config, stopped, resume=resume, report=kill_at(word))
        assert not (stopped.path / "result.json").exists()
    seen: list[str] = []
    audit(model, config, stopped, resume=True, report=lambda what, done, total: seen.append(what))
    assert seen == ["budget 0.05: random search", "budget 0.8: random search"]  # and no clean test, no attack
    assert numbers(stopped) == numbers(whole)
    assert (stopped.path / "history.jsonl").read_bytes() == (whole.path / "history.jsonl").read_bytes()
    for name in ("adversarial_0.05.safetensors", "adversarial_0.8.safetensors"):
        (ours, facts), (theirs, expected) = (content(folder.path / name) for folder in (stopped, whole))
        assert facts == expected
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_damaged_part_is_done_again(tmp_path) -> None:
    model = load("tiny")
    config = config_for(model, tmp_path)
    folder = RunFolder.open(tmp_path / "run", {"task": "audit"})
    audit(model, config, folder)
    before = numbers(folder)
    (folder.path / "checkpoint" / "unit-attack-0.8.safetensors").write_bytes(b"no tensors")
    with pytest.warns(UserWarning, match=r"unit-attack-0\.8.* is damaged"):
        audit(model, config, folder, resume=True)
    assert numbers(folder) == before


def test_several_processes_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Processes, "count", property(lambda self: 2))
    with pytest.raises(UnsupportedError, match="one process"):
        audit(None, AuditConfig(victim="nobody", prompts=["a"]), RunFolder(tmp_path))
