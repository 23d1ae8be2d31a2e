"""A resumed run goes on with what `Auto` had decided, and reports what all its sessions took."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adjointdpm import metrics
from adjointdpm.engine.gradients import Auto, resolve
from adjointdpm.optimization.gradient_check import gradient_error
from adjointdpm.optimization.loop import Interrupted, Outcome, Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import from_pipeline
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.variables import Example, Noise
from helpers.tiny_pipelines import tiny_pipeline

EXAMPLES = [Example("red fox", seed) for seed in range(3)]
LOOP = Settings(
    iterations=4,
    batch=1,
    lr=0.05,
    preservation=0.0,
    validate_every=2,
    checkpoint_every=1,
    patience=9,
)


def learn_noise(
    path: Path, gradient: str, folder: Path, *, stop: int | None = None, resume: bool = False
) -> tuple[Tensor, Outcome]:
    """The noise that a new model in a new session learns; what happened up to the interruption is
    in `folder`.
    """
    model = from_pipeline(tiny_pipeline(path))
    noise = Noise(EXAMPLES, torch.cat([model.noise(1, example.seed) for example in EXAMPLES]))
    history = folder / "history.json"

    def keep(records: list[dict[str, Any]]) -> None:
        history.parent.mkdir(exist_ok=True)
        history.write_text(json.dumps(records))
        if records[-1]["iteration"] == stop:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = optimize(
        MetricObjective(
            Renderer(model, 6, 1.0, "euler", gradient), metrics.resolve("color:mood=dusk")
        ),
        noise,
        EXAMPLES,
        EXAMPLES[:1],
        LOOP,
        checkpoints=Checkpoints(folder / "checkpoint"),
        resume=resume,
        on_history=keep,
    )
    return noise.noise.detach().clone(), outcome


def without_times(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


@pytest.mark.parametrize(("tolerance", "chosen"), [(0.9, "Interpolated"), (1e-9, "Checkpoint")])
def test_a_resumed_run_goes_on_with_the_method_that_auto_chose(
    tmp_path, monkeypatch, tolerance: float, chosen: str
) -> None:
    gradient = f"auto:tolerance={tolerance}"
    whole, expected = learn_noise(tmp_path, gradient, tmp_path / "whole")
    with pytest.raises(Interrupted):
        learn_noise(tmp_path, gradient, tmp_path / "stopped", stop=2)
    _, facts = Checkpoints(tmp_path / "stopped" / "checkpoint").read()
    assert [
        decided["reason"].startswith((chosen, "exact")) for decided in facts["gradients"].values()
    ] == [True]
    monkeypatch.setattr(Auto, "_choose", lambda *_: pytest.fail("it measured again"))
    again, outcome = learn_noise(tmp_path, gradient, tmp_path / "stopped", resume=True)
    assert torch.equal(again, whole)
    assert without_times(outcome.history) == without_times(expected.history)


def test_the_history_tells_how_far_few_vjps_are_off(tmp_path) -> None:
    _, outcome = learn_noise(tmp_path, "interpolated:vjps=3", tmp_path / "few")
    estimates = [record.get("gradient_error_estimate") for record in outcome.history]
    assert estimates[0] is None  # the start: nothing was differentiated yet
    assert all(0 < estimate < 10 for estimate in estimates[1:])
    _, outcome = learn_noise(tmp_path, "exact", tmp_path / "exact")
    assert not any("gradient_error_estimate" in record for record in outcome.history)


def test_looking_at_the_error_of_the_runs_gradient_does_not_change_what_it_uses(tmp_path) -> None:
    model = from_pipeline(tiny_pipeline(tmp_path))
    noise = Noise(EXAMPLES, torch.cat([model.noise(1, example.seed) for example in EXAMPLES]))
    method = Auto(0.9)
    render, metric = Renderer(model, 6, 1.0, "euler", method), metrics.resolve("color:mood=dusk")
    gradient_error(render, noise, metric, EXAMPLES[:1])  # decides
    ((kind, facts),) = method.decisions(model.network).items()
    decided = {
        kind: facts | {"estimate": 1e-9, "alarms": 2}
    }  # so that the next one will be found wanting
    method.decide(model.network, decided)
    errors = gradient_error(render, noise, metric, EXAMPLES)
    assert method.decisions(model.network) == decided
    expected = gradient_error(
        render.with_gradient(f"interpolated:vjps={facts['vjps']}"), noise, metric, EXAMPLES
    )
    assert [row["relative_error"] for row in errors] == pytest.approx(
        [row["relative_error"] for row in expected]
    )


@pytest.mark.parametrize(("tolerance", "vjps"), [(0.9, True), (1e-9, False)])
def test_decisions_survive_json(tmp_path, tolerance: float, vjps: bool) -> None:
    learn_noise(tmp_path, f"auto:tolerance={tolerance}", tmp_path / "run")
    _, facts = Checkpoints(tmp_path / "run" / "checkpoint").read()
    decisions = facts["gradients"]
    assert [decided["vjps"] is not None for decided in decisions.values()] == [vjps]
    method, network = Auto(tolerance), nn.Identity()
    assert method.decisions(network) == {}
    method.decide(network, decisions)
    assert method.decisions(network) == decisions
    assert method.decisions(nn.Identity()) == {}
    (choice,) = method.choices[network].values()
    assert choice.method == (
        resolve(f"interpolated:vjps={next(iter(decisions.values()))['vjps']}")
        if vjps
        else method.exact
    )


def learn_word(
    model: DiffusionModel,
    path: Path,
    preservation: float,
    *,
    stop: int | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    config = EmbedConfig(
        token="<x>",
        initial="red",
        template="{prompt} {token}",
        metric=["color:mood=dusk"],
        prompts=["red fox", "fox"],
        held_out=["red owl"],
        validation=2,
        steps=2,
        guidance_scale=1.0,
        iterations=4,
        batch=1,
        validate_every=2,
        preservation=preservation,
        patience=9,
        tracker=[],
    )

    def interrupt(record: dict[str, Any]) -> None:
        if record["iteration"] == stop:
            os.kill(os.getpid(), signal.SIGINT)

    folder = RunFolder.open(path, {"task": "embed"}, resume=resume)
    return embed(model, config, folder, resume=resume, on_record=interrupt)


@pytest.mark.parametrize(("preservation", "redrawn"), [(0.0, 2), (0.5, 8)])
def test_a_resumed_run_reports_what_all_its_sessions_took(
    tmp_path, preservation: float, redrawn: int
) -> None:
    """Plain pictures, the spread and what a guard compares with are drawn anew in each session."""
    calls = []

    def model() -> DiffusionModel:
        made = from_pipeline(tiny_pipeline(tmp_path))
        made.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
        return made

    whole = learn_word(model(), tmp_path / "whole", preservation)
    assert whole["network_calls"] == len(calls)
    calls.clear()
    for resume, stop in ((False, 1), (True, 3)):
        with pytest.raises(Interrupted):
            learn_word(model(), tmp_path / "stopped", preservation, stop=stop, resume=resume)
    _, facts = Checkpoints(tmp_path / "stopped" / "checkpoint").read()
    former_calls, probing = len(calls), whole["template"]["network_calls"]
    assert facts["network_calls"] == former_calls - probing
    result = learn_word(model(), tmp_path / "stopped", preservation, resume=True)
    assert result["metric"] == whole["metric"]
    assert result["network_calls"] == sum(result["network_calls_by_purpose"].values()) == len(calls)
    assert result["network_calls"] == whole["network_calls"] + 2 * redrawn
    former = facts["seconds"]
    assert 0 < former < result["seconds_optimising"] < result["seconds"]
    in_loop = sum(
        record.get("seconds", 0) for record in RunFolder(tmp_path / "stopped").read_history()
    )
    assert result["seconds_optimising"] > in_loop
