"""The loop: it learns, stops, keeps the best, and an interrupted run that is resumed gives the same bits."""

import json
import os
import signal

import pytest
import torch

from adjointdpm import errors, metrics
from adjointdpm.checkpoints import Checkpoints
from adjointdpm.optimize import Interrupted, Settings, _minibatch, optimize
from adjointdpm.rendering import Example, Renderer
from toys import REDDISH, Tint, ToyModel

TRAINING = [Example("a", seed) for seed in range(5)]
VALIDATION = [Example("a", seed) for seed in range(100, 103)]
SETTINGS = Settings(iterations=12, batch=2, learning_rate=0.1, preservation=0.5, validate_every=3, patience=5, checkpoint_every=4)


def run(variable: Tint, settings: Settings = SETTINGS, metric=REDDISH, **kwargs):
    return optimize(Renderer(ToyModel()), variable, metric, TRAINING, VALIDATION, settings, **kwargs)


def without_times(history: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def test_the_metric_falls_and_the_best_state_is_kept() -> None:
    variable = Tint()
    outcome = run(variable)
    looks = {record["iteration"]: record["validation"] for record in outcome.history if "validation" in record}
    assert list(looks) == [0, 3, 6, 9, 12]
    assert looks[12]["metric"] < 0.7 * looks[0]["metric"]
    assert outcome.best_iteration == min(looks, key=lambda i: looks[i]["objective"])
    assert variable.color[0] > 0.3 > variable.color[1]


def test_an_interrupted_run_resumed_equals_an_uninterrupted_one_bit_for_bit(tmp_path) -> None:
    whole, parts, again = Tint(), Tint(), Tint()
    expected = run(whole)
    seen: list[dict] = []

    def stop_at_six(history: list[dict]) -> None:
        seen[:] = history
        if history[-1]["iteration"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    checkpoints = Checkpoints(tmp_path / "checkpoint")
    with pytest.raises(Interrupted, match="iteration 6"):
        run(parts, checkpoints=checkpoints, on_history=stop_at_six)
    seen.append({"iteration": 7, "lost": True})  # written after the last checkpoint of a run that was killed
    outcome = run(again, checkpoints=checkpoints, history=json.loads(json.dumps(seen)), resume=True)
    assert torch.equal(again.color, whole.color)
    assert without_times(outcome.history) == without_times(expected.history)
    assert outcome.best_iteration == expected.best_iteration


def test_a_finished_run_resumed_with_nothing_left_to_do_returns_its_result(tmp_path) -> None:
    first, second = Tint(), Tint()
    expected = run(first, checkpoints=Checkpoints(tmp_path))
    outcome = run(second, checkpoints=Checkpoints(tmp_path), history=expected.history, resume=True)
    assert torch.equal(first.color, second.color)
    assert outcome.history == expected.history


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path) -> None:
    run(Tint(), checkpoints=Checkpoints(tmp_path))
    newest = sorted(tmp_path.iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.warns(errors.AdjointDPMWarning, match=newest.name):
        _, facts = Checkpoints(tmp_path).read()
    assert facts["iteration"] == 8
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    with pytest.warns(errors.AdjointDPMWarning), pytest.raises(errors.CheckpointError, match=newest.name):
        Checkpoints(tmp_path).read()


def test_resuming_without_a_checkpoint_or_with_anothers_is_an_error(tmp_path) -> None:
    with pytest.raises(errors.CheckpointError, match="no checkpoint"):
        run(Tint(), checkpoints=Checkpoints(tmp_path), resume=True)
    run(Tint(), checkpoints=Checkpoints(tmp_path))
    other = Tint()
    other.color = torch.zeros(4, requires_grad=True)
    with pytest.raises(errors.CheckpointError, match="another run"):
        run(other, checkpoints=Checkpoints(tmp_path), resume=True)


def test_it_stops_early_when_nothing_gets_better() -> None:
    settings = Settings(iterations=50, learning_rate=100.0, validate_every=1, patience=2)  # jumps far past the optimum
    variable = Tint()
    outcome = run(variable, settings)
    assert outcome.history[-1]["iteration"] < 50
    assert "no better" in outcome.stopped
    looks = {record["iteration"]: record["validation"]["objective"] for record in outcome.history}
    assert looks[outcome.best_iteration] == min(looks.values())


def test_preservation_holds_the_drawing() -> None:
    def drift(weight: float) -> float:
        history = run(Tint(), Settings(iterations=12, learning_rate=0.5, preservation=weight, patience=9)).history
        return history[-1]["validation"]["drift"]

    assert drift(5.0) < drift(0.0)


def test_each_example_is_used_once_before_any_comes_again() -> None:
    drawn = [example for iteration in range(5) for example in _minibatch(TRAINING, 2, iteration, seed=3)]
    assert sorted(drawn[:5]) == sorted(TRAINING)
    assert sorted(drawn[5:]) == sorted(TRAINING)
    assert drawn[:5] != drawn[5:]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.mean(), "shape"),
        (lambda x: x.mean((1, 2, 3)) / 0, "infinite"),
        (lambda x: x.detach().mean((1, 2, 3)), "blocks gradients"),
    ],
)
def test_a_metric_that_breaks_during_the_run_is_an_error(function, message: str) -> None:
    with pytest.raises(errors.MetricError, match=message):
        run(Tint(), Settings(preservation=0.0), metrics.resolve(function))


def test_a_gradient_that_is_not_finite_is_an_error() -> None:
    metric = metrics.resolve(lambda x: (x - x.detach()).square().sum((1, 2, 3)).sqrt())
    with pytest.raises(errors.MetricError, match="nan"):
        run(Tint(), metric=metric)


@pytest.mark.parametrize("bad", [{"iterations": 0}, {"batch": 1.5}, {"learning_rate": -1}, {"preservation": -0.1}, {"patience": 0}])
def test_settings_out_of_range_are_refused(bad: dict) -> None:
    with pytest.raises(errors.InvalidInputError, match=next(iter(bad))):
        Settings(**bad)


def test_no_examples_is_an_error() -> None:
    with pytest.raises(errors.PromptError):
        optimize(Renderer(ToyModel()), Tint(), REDDISH, [], VALIDATION, SETTINGS)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    old = checkpoints.write(1, {"x": torch.ones(1)}, {})

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.OutputError, match="No space left"):
        checkpoints.write(1, {"x": torch.zeros(1)}, {})
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert checkpoints.read()[0]["x"] == 1
