"""A run that gained nothing goes on with larger steps or exact gradients, also when resumed."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adjointdpm.engine.gradients import Checkpoint, GradientMethod, Truncated, resolve
from adjointdpm.optimization.loop import Interrupted, Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.optimization.second_try import MARK, second_try, tried_again
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


def run(
    variable: Tint,
    retry_after: int,
    settings: Settings = SETTINGS,
    model: ToyModel | None = None,
    gradient: GradientMethod | str = Truncated(5),  # noqa: B008
    **kwargs,
):
    render = Renderer(model or Misled(), gradient=gradient)
    objective = MetricObjective(render, REDDISH, measure_spread=lambda: 0.05)
    outcome = optimize(
        objective, variable, TRAINING, VALIDATION, settings, retry_after=retry_after, **kwargs
    )
    return outcome, objective


def test_the_exact_gradient_is_taken_once_nothing_was_gained() -> None:
    outcome, objective = run(Tint(), 4)
    looks = [row["validation"]["metric"] for row in outcome.history]
    assert [row["iteration"] for row in outcome.history if row.get(MARK)] == [4]
    assert tried_again(outcome.history) == (4, "the exact gradient")
    assert isinstance(objective.render.gradient, Checkpoint)
    assert looks[4] > looks[0]
    assert outcome.best_iteration > 4
    assert min(looks[5:]) < looks[0] - 0.05


@pytest.mark.parametrize("gradient", ["exact", Checkpoint()])
def test_a_run_that_has_it_already_does_not_begin_again(gradient: GradientMethod | str) -> None:
    class Wrong(Misled):
        def generate(self, prompt, noise: Tensor, gradient=None, **more) -> Tensor:
            return super().generate(prompt, noise, gradient="truncated:last=5", **more)

    outcome, _ = run(Tint(), 4, model=Wrong(), gradient=gradient)
    assert outcome.best_iteration == 0  # nothing was gained, and the metric has moved
    assert tried_again(outcome.history) == (0, None)


def test_without_it_the_run_ends_where_it_began() -> None:
    outcome, objective = run(Tint(), 0)
    assert outcome.best_iteration == 0
    assert tried_again(outcome.history) == (0, None)
    assert isinstance(objective.render.gradient, Truncated)


def test_a_run_that_is_over_changes_nothing() -> None:
    outcome, _ = run(Tint(), SETTINGS.iterations)
    assert tried_again(outcome.history) == (0, None)


def test_the_schedule_begins_again_with_it() -> None:
    settings = replace(SETTINGS, lr_schedule="linear")
    assert settings.lr_at(4, begun=4) == settings.lr
    assert settings.lr_at(7, begun=4) == pytest.approx(settings.lr / 2)


def records(*looks: float) -> list[dict]:
    """Records whose objective and metric are these."""
    return [
        {"iteration": i, "validation": {"objective": look, "metric": look}}
        for i, look in enumerate(looks)
    ]


def test_a_run_that_gains_goes_on_as_it_is() -> None:
    history = records(1.0, 0.9, 0.8, 0.7, 0.6)
    assert second_try(history, 4, 0.3) is None
    assert second_try(history, 4, 0.5) == "the exact gradient"
    assert second_try(history, 4, 0.5, exact=True) is None  # it has it already
    assert second_try(history, 3, 0.5) is None
    assert second_try(history, 0, 0.5) is None


@pytest.mark.parametrize(
    ("looks", "tried"),
    [
        ((1.0, 1.01, 0.99, 1.01, 0.99), "larger steps"),
        ((1.0, 1.2, 1.01, 0.99, 1.01), "larger steps"),  # it came back
        ((1.0, 1.01, 0.99, 1.03, 1.01), "the exact gradient"),
        ((1.0, 1.01, 0.99, 1.01, 0.97), "the exact gradient"),
    ],
)
def test_steps_become_larger_only_where_the_metric_has_stayed(looks, tried) -> None:
    assert second_try(records(*looks), 4, 0.5) == tried


class Plateau(ToyModel):
    """Pictures stay dark until the noise has gone far."""

    def generate(self, prompt, noise: Tensor, gradient=None, **_) -> Tensor:
        light = torch.sigmoid(8 * (noise.mean((2, 3), keepdim=True) - 2))
        return light.expand(-1, -1, 16, 16)


def run_on_plateau(variable: Tint, retry_after: int, **kwargs):
    render = Renderer(Plateau(), gradient=resolve("truncated:last=5"))
    objective = MetricObjective(render, REDDISH, measure_spread=lambda: 0.2)
    outcome = optimize(
        objective, variable, TRAINING, VALIDATION, SETTINGS, retry_after=retry_after, **kwargs
    )
    return outcome, objective


def test_larger_steps_leave_a_plateau() -> None:
    (without, _), (outcome, objective) = run_on_plateau(Tint(), 0), run_on_plateau(Tint(), 4)
    assert tried_again(outcome.history) == (4, "larger steps")
    assert isinstance(objective.render.gradient, Truncated)
    start, *looks = [row["validation"]["metric"] for row in without.history]
    assert start - min(looks) < 0.05
    assert start - min(row["validation"]["metric"] for row in outcome.history) > 0.15


def stopped_and_resumed(run, tmp_path):
    """A run that is stopped after iteration 6 and resumed: what is learned, and what `run` says."""

    def stop(history: list[dict]) -> None:
        if history[-1]["iteration"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    checkpoints, again = Checkpoints(tmp_path / "checkpoint"), Tint()
    with pytest.raises(Interrupted):
        run(Tint(), 4, checkpoints=checkpoints, on_history=stop)
    return again, run(again, 4, checkpoints=checkpoints, resume=True)


def test_larger_steps_stay_large_in_a_resumed_run(tmp_path) -> None:
    whole = Tint()
    run_on_plateau(whole, 4)
    again, _ = stopped_and_resumed(run_on_plateau, tmp_path)
    assert torch.equal(again.color, whole.color)


def test_a_run_interrupted_after_the_change_ends_as_if_it_had_not_been(tmp_path) -> None:
    whole = Tint()
    expected, _ = run(whole, 4)
    again, (outcome, objective) = stopped_and_resumed(run, tmp_path)
    assert isinstance(objective.render.gradient, Checkpoint)
    assert torch.equal(again.color, whole.color)
    assert outcome.best_iteration == expected.best_iteration
