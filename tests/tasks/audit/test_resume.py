"""An audit that a signal stops goes on where it was and ends with the same numbers."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from adjointdpm import from_pipeline, load
from adjointdpm.errors import PromptError
from adjointdpm.optimization.gradient_check import gradient_cost
from adjointdpm.optimization.loop import Interrupted
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.resumable_steps import ResumableSteps, Saved
from adjointdpm.tasks.audit.attack import attack
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.goal import Findings, Goal
from adjointdpm.tasks.audit.random_search import random_search
from adjointdpm.tasks.audit.task import audit
from adjointdpm.tasks.audit.victims import load_victim
from adjointdpm.variables import Example, Noise
from helpers.audits import PROMPTS, VICTIM
from helpers.tiny_pipelines import tiny_pipeline

VARY = {"seconds", "peak_memory_bytes"}


def config_for(model, tmp_path, bluer: float = 0.3, prompt: str = PROMPTS[0]) -> AuditConfig:
    path = tmp_path / "victim.py"
    with torch.no_grad():
        images = model.generate([prompt] * 2, model.noise(2, 0), steps=2, guidance_scale=3.0)
    blue = (images[:, 2].mean((1, 2)) - images[:, 0].mean((1, 2))).max().item()
    path.write_text(VICTIM.replace("THRESHOLD", f"{blue + bluer:.4f}"))
    return AuditConfig(
        victim=f"{path}:build",
        prompts=[prompt],
        budget=[0.05, 0.8],
        clean_seeds=2,
        iterations=2,
        steps=2,
        guidance_scale=3.0,
    )


def numbers(folder: RunFolder) -> dict:
    result = json.loads((folder.path / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in VARY}


def content(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 - no mapping


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_audit_stops_after_a_small_part_and_ends_with_the_same_numbers(number, tmp_path) -> None:
    model, calls = from_pipeline(tiny_pipeline(tmp_path)), []
    model.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    prompts = ["a lion", "my lion"]
    config = replace(config_for(model, tmp_path), prompts=prompts, batch=1)
    calls.clear()
    whole = RunFolder.open(tmp_path / "whole", {"task": "audit"})
    audit(model, config, whole)
    needed = len(calls)
    example = Example(prompts[0], 0)
    calls.clear()
    gradient_cost(
        Renderer(model, config.steps, config.guidance_scale),
        Noise([example], model.noise(1, 0), "free"),
        example,
    )
    pilot = len(calls)  # of every run

    def kill_at(word: str):
        sent: list[str] = []  # one signal: a second one acts at once

        def report(what: str, done: int, total: int) -> None:
            if word in what and not sent:
                sent.append(what)
                os.kill(os.getpid(), number)

        return report

    stopped = RunFolder.open(tmp_path / "stopped", {"task": "audit"})
    parts = stopped.path / "checkpoint"
    calls.clear()
    for resume, word, unit in (
        (False, "clean", "clean-00000/0"),  # the first prompt of two
        # Of the first example the second iteration, and its random search.
        (True, "budget 0.05: 0 of 1", "attacks-00000/attack-budget_0.05/1-0"),
        (True, "budget 0.05: random", "attacks-00000/random-budget_0.05/0"),
        (True, "budget 0.8: ", "attacks-00000/"),
    ):
        with pytest.raises(Interrupted, match=f"stopped after {unit}"):
            audit(model, config, stopped, resume=resume, report=kill_at(word))
        assert not (stopped.path / "result.json").exists()
        assert list((parts / f"unit-{unit.partition('/')[0]}").iterdir())
    seen: list[str] = []
    audit(model, config, stopped, resume=True, report=lambda what, done, total: seen.append(what))
    assert not any("clean" in what for what in seen)
    assert not any(path.is_dir() for path in parts.iterdir())
    assert numbers(stopped) == numbers(whole)
    spent = [
        json.loads(content(part)[1]["facts"])["seconds"]
        for part in parts.glob("unit-*.safetensors")
    ]
    assert json.loads((stopped.path / "result.json").read_text())["seconds"] > sum(
        spent
    )  # most of it in earlier sessions
    assert len(calls) == needed + 4 * pilot  # nothing was done twice
    assert (stopped.path / "history.jsonl").read_bytes() == (
        whole.path / "history.jsonl"
    ).read_bytes()
    for name in ("adversarial_0.05.safetensors", "adversarial_0.8.safetensors"):
        ours, theirs = ((folder.path / name).read_bytes() for folder in (stopped, whole))
        assert ours == theirs


def test_the_last_that_is_told_of_a_budget_is_what_came_of_it(tmp_path) -> None:
    model, told = from_pipeline(tiny_pipeline(tmp_path)), []
    config = replace(
        config_for(model, tmp_path, bluer=0.05, prompt="a lion"),
        budget=[0.8],
        iterations=1,
        random_search=False,
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "audit"})
    result = audit(model, config, folder, report=lambda what, done, total: told.append(what))
    assert result["success"][0]["fooled"] == 1  # by its only step, which is drawn at the end
    assert told[-2:] == ["budget 0.8: 0 of 1 fooled", "budget 0.8: 1 of 1 fooled"]


@pytest.mark.slow
@pytest.mark.parametrize("within", ["l2", "linf"])
def test_an_attack_and_a_search_stopped_after_any_part_end_bit_for_bit_alike(
    within: str, tmp_path
) -> None:
    model, examples = (
        from_pipeline(tiny_pipeline(tmp_path)),
        [Example("a lion", seed) for seed in range(3)],
    )
    render = Renderer(model, 1, 1.0, "euler")
    (tmp_path / "victim.py").write_text(VICTIM.replace("THRESHOLD", "0.1"))
    goal = Goal(load_victim(f"{tmp_path / 'victim.py'}:build", ["a lion"]), torch.tensor([0, 1, 0]))
    start = torch.cat([model.noise(1, example.seed) for example in examples])
    done: list[str] = []

    def find(folder: Path, resume: bool, stop_after: int | None) -> list[Findings]:
        done.clear()
        steps = ResumableSteps(folder, resume, lambda: len(done) == stop_after)

        def once(kind: str, name: str, make: Callable[[], Saved]) -> Saved:
            done.append(name)
            return steps.once(f"{kind}-{name}", make)[0]

        noise, again = (Noise(examples, start, within=within, budget=0.3) for _ in range(2))
        found = attack(
            render, goal, examples, noise, iterations=3, batch=2, once=partial(once, "attack")
        )
        return [
            found,
            random_search(render, goal, examples, again, tries=3, once=partial(once, "search")),
        ]

    expected = find(tmp_path / "whole", False, None)
    count = len(done)
    assert count >= 6
    for stop_after in range(1, count + 1):
        folder = tmp_path / f"{stop_after}"
        with pytest.raises(Interrupted):
            find(folder, False, stop_after)
        assert len(list(folder.iterdir())) == stop_after
        for ours, theirs in zip(find(folder, True, None), expected, strict=True):
            assert all(
                torch.equal(one, other)
                for one, other in zip(vars(ours).values(), vars(theirs).values(), strict=True)
            )


def test_a_prompt_that_names_nothing_is_refused_before_the_first_picture(tmp_path) -> None:
    model = load("tiny")
    model.pipe.unet.register_forward_hook(lambda *_: pytest.fail("a picture was drawn"))
    (tmp_path / "victim.py").write_text(VICTIM.replace("THRESHOLD", "0.1"))
    config = AuditConfig(victim=f"{tmp_path / 'victim.py'}:build", prompts=["a spaceship"], steps=1)
    with pytest.raises(PromptError, match="spaceship"):
        audit(model, config, RunFolder.open(tmp_path / "run", {"task": "audit"}))


def test_force_keeps_the_old_run_until_a_part_of_the_new_one_is_saved(tmp_path) -> None:
    model, path = from_pipeline(tiny_pipeline(tmp_path)), tmp_path / "run"
    config = replace(config_for(model, tmp_path), prompts=["a lion"])
    facts = {"task": "audit", "model": "tiny"}
    old = RunFolder.open(path, facts)
    old.write_history([{"iteration": 0}])
    old.checkpoints.write(1, {"x": torch.zeros(1)}, {})
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(PromptError, match="spaceship"):
        audit(
            model,
            replace(config, prompts=["a spaceship"]),
            RunFolder.open(path, facts, force=True),
        )
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    folder = RunFolder.open(path, facts, force=True)
    audit(model, config, folder)
    names = {file.name for file in (path / "checkpoint").iterdir()}
    assert "unit-clean-00000.safetensors" in names
    assert not any(name.startswith("state-") for name in names)
    after = numbers(folder)
    audit(model, config, RunFolder.open(path, facts, resume=True), resume=True)
    assert numbers(folder) == after


@pytest.mark.slow
def test_a_damaged_part_is_done_again(tmp_path) -> None:
    model = load("tiny")
    config = config_for(model, tmp_path)
    folder = RunFolder.open(tmp_path / "run", {"task": "audit"})
    audit(model, config, folder)
    before = numbers(folder)
    (folder.path / "checkpoint" / "unit-attacks-00000.safetensors").write_bytes(b"no tensors")
    with pytest.warns(UserWarning, match=r"unit-attacks-00000.* is damaged"):
        audit(model, config, folder, resume=True)
    assert numbers(folder) == before
