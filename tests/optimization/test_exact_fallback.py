"""A run whose cheap gradient gained nothing goes on with the exact one, also when it is resumed."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adjointdpm.engine.gradients import Checkpoint, Truncated, resolve
from adjointdpm.optimization.exact_fallback import MARK, changed_after, leads_nowhere
from adjointdpm.optimization.loop import Interrupted, Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.variables import Example
from helpers.toys import REDDISH, Tint, ToyModel

TRAINING = [Example("a", seed) for seed in range(2)]
VALIDATION = [Example("a", seed) for seed in range(50, 52)]
SETTINGS = Settings(
    iterations=10, lr=0.1, preservation=0.0, validate_every=1, patience=10, optimizer="normalized"
)


class Misled(ToyModel):
    """Its gradient points the wrong way, unless it is asked for the exact one."""

    def generate(self, prompt, noise: Tensor, gradient=None, **_) -> Tensor:
        sign = 1.0 if isinstance(gradient, Checkpoint) else -1.0
        turned = noise.detach() + sign * (noise - noise.detach())
        return torch.sigmoid(turned)


def run(variable: Tint, exact_after: int, settings: Settings = SETTINGS, **kwargs):
    render = Renderer(Misled(), gradient=resolve("truncated:last=5"))
    assert isinstance(render.gradient, Truncated)
    objective = MetricObjective(render, REDDISH, measure_spread=lambda: 0.05)
    outcome = optimize(
        objective, variable, TRAINING, VALIDATION, settings, exact_after=exact_after, **kwargs
    )
    return outcome, objective


def test_the_exact_gradient_is_taken_once_nothing_was_gained() -> None:
    outcome, objective = run(Tint(), 4)
    looks = [row["validation"]["metric"] for row in outcome.history]
    assert [row["iteration"] for row in outcome.history if row.get(MARK)] == [4]
    assert changed_after(outcome.history) == 4
    assert isinstance(objective.render.gradient, Checkpoint)
    assert looks[4] > looks[0]
    assert outcome.best_iteration > 4
    assert min(looks[5:]) < looks[0] - 0.05


def test_without_it_the_run_ends_where_it_began() -> None:
    outcome, objective = run(Tint(), 0)
    assert outcome.best_iteration == 0
    assert not changed_after(outcome.history)
    assert isinstance(objective.render.gradient, Truncated)


def test_a_run_that_is_over_changes_nothing() -> None:
    outcome, _ = run(Tint(), SETTINGS.iterations)
    assert not changed_after(outcome.history)


def test_the_schedule_begins_again_with_it() -> None:
    settings = replace(SETTINGS, lr_schedule="linear")
    assert settings.lr_at(4, begun=4) == settings.lr
    assert settings.lr_at(7, begun=4) == pytest.approx(settings.lr / 2)


def test_a_run_that_gains_keeps_its_gradient() -> None:
    history = [
        {"iteration": i, "validation": {"objective": 1 - 0.1 * i, "metric": 0.0}} for i in range(5)
    ]
    assert not leads_nowhere(history, 4, 0.3)
    assert leads_nowhere(history, 4, 0.5)
    assert not leads_nowhere(history, 3, 0.5)


def test_a_run_interrupted_after_the_change_ends_as_if_it_had_not_been(tmp_path) -> None:
    whole, parts, again = Tint(), Tint(), Tint()
    expected, _ = run(whole, 4)

    def stop(history: list[dict]) -> None:
        if history[-1]["iteration"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    checkpoints = Checkpoints(tmp_path / "checkpoint")
    with pytest.raises(Interrupted):
        run(parts, 4, checkpoints=checkpoints, on_history=stop)
    outcome, objective = run(again, 4, checkpoints=checkpoints, resume=True)
    assert isinstance(objective.render.gradient, Checkpoint)
    assert torch.equal(again.color, whole.color)
    assert outcome.best_iteration == expected.best_iteration
