"""A guard stops a run that only pleases its metric, and keeps its states from being the best."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adjointdpm.metrics import FunctionMetric
from adjointdpm.optimization.guard import Guard
from adjointdpm.optimization.loop import Interrupted, Outcome, Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.variables import Example
from helpers.toys import Tint, ToyModel

TRAINING = [Example("a", seed) for seed in range(4)]
VALIDATION = [Example("a", seed) for seed in range(100, 104)]
SETTINGS = Settings(
    iterations=20, batch=2, lr=0.2, preservation=0, validate_every=1, patience=9, checkpoint_every=1
)


def pays_for_red(images: Tensor) -> Tensor:
    """Lower is better: red alone."""
    return -images[:, 0].mean((1, 2))


def wants_gray(images: Tensor) -> Tensor:
    """Lower is better: channels that are alike."""
    return (images[:, 0] - images[:, 1]).mean((1, 2)).abs()


def pleased(images: Tensor) -> Tensor:
    """The same for all pictures."""
    return images.mean((1, 2, 3)) * 0


def learn(guard: Guard | None, **more) -> tuple[Tint, Outcome]:
    variable = Tint()
    objective = MetricObjective(
        Renderer(ToyModel()), FunctionMetric(pays_for_red, "red"), guard=guard
    )
    return variable, optimize(
        objective, variable, TRAINING, VALIDATION, SETTINGS, guard=guard, **more
    )


def looks(outcome: Outcome) -> list[dict[str, float]]:
    return [record["validation"] for record in outcome.history]


@pytest.mark.parametrize("bound", [0.05, 0.15, None])
def test_it_ends_a_run_that_hacks_and_the_best_state_is_within_its_limit(bound) -> None:
    guard = Guard(FunctionMetric(wants_gray, "gray"), bound)
    _, free = learn(None)
    assert free.best_iteration == free.history[-1]["iteration"] == SETTINGS.iterations
    variable, outcome = learn(guard)
    start, *_, last = found = looks(outcome)
    limit = guard.limit(start)
    assert last["guard"] > limit
    assert "gray" in outcome.stopped
    assert outcome.history[-1]["iteration"] < SETTINGS.iterations
    assert found[outcome.best_iteration]["guard"] <= limit
    assert 0 < outcome.best_iteration < outcome.history[-1]["iteration"]
    objective = MetricObjective(Renderer(ToyModel()), FunctionMetric(wants_gray, "gray"))
    objective.prepare(variable, VALIDATION, SETTINGS)
    assert objective.look(VALIDATION)["metric"] <= limit


def test_without_a_bound_its_own_noise_is_the_bound() -> None:
    _, outcome = learn(Guard(FunctionMetric(wants_gray, "gray")))
    start, model = looks(outcome)[0], ToyModel()
    scores = wants_gray(
        torch.cat([model.generate(["a"], model.noise(1, e.seed)) for e in VALIDATION])
    )
    assert start["guard"] == pytest.approx(scores.mean().item(), rel=1e-5)
    assert start["guard_error"] == pytest.approx(scores.std().item() / 2, rel=1e-4)
    guard = Guard(FunctionMetric(wants_gray, "gray"))
    assert guard.limit(start) == pytest.approx(start["guard"] + 2 * start["guard_error"])


def test_a_guard_that_is_pleased_changes_nothing() -> None:
    (one, _), (other, outcome) = learn(None), learn(Guard(FunctionMetric(pleased, "pleased"), 0.1))
    assert torch.equal(one.color, other.color)
    assert outcome.stopped == "all iterations done"


def resumed_after(iteration: int, guard: Guard, folder: Path) -> tuple[Tint, Outcome]:
    """A run that is interrupted after an iteration, and resumed."""

    def stop(records: list[dict]) -> None:
        if records[-1]["iteration"] == iteration:
            os.kill(os.getpid(), signal.SIGINT)

    checkpoints = Checkpoints(folder / "checkpoint")
    with pytest.raises(Interrupted):
        learn(guard, checkpoints=checkpoints, on_history=stop)
    return learn(guard, checkpoints=checkpoints, resume=True)


def test_a_resumed_run_is_ended_at_the_same_iteration(tmp_path) -> None:
    guard = Guard(FunctionMetric(wants_gray, "gray"), 0.15)
    expected, whole = learn(guard)
    variable, resumed = resumed_after(2, guard, tmp_path)
    assert resumed.stopped == whole.stopped
    assert looks(resumed) == looks(whole)
    assert torch.equal(variable.color, expected.color)


def test_beyond_enough_nothing_is_gained() -> None:
    """The clipped reward: the metric stops near its bound, and further without it."""
    ends = {}
    for enough in (None, -0.7):
        variable = Tint()
        metric = FunctionMetric(pays_for_red, "red")
        objective = MetricObjective(Renderer(ToyModel()), metric, enough)
        outcome = optimize(objective, variable, TRAINING, VALIDATION, SETTINGS)
        ends[enough] = looks(outcome)[outcome.best_iteration]["metric"]
    assert ends[None] < -0.9
    assert -0.85 < ends[-0.7] < -0.7


def test_a_guard_may_know_what_the_untouched_model_has() -> None:
    start = {"guard": 0.5, "guard_error": 0.1, "metric": 0.0}
    metric = FunctionMetric(wants_gray, "gray")
    assert Guard(metric, 0.1).accepts({"guard": 0.55}, start)
    known = Guard(metric, 0.1, untouched=0.2)
    assert known.limit({}) == pytest.approx(0.3)
    assert not known.accepts({"guard": 0.56}, start)
    assert known.accepts({"guard": 0.55}, start)  # a start that is beyond leaves half of the bound
    assert known.accepts({"guard": 0.3}, start | {"guard": 0.21})
    assert not known.accepts({"guard": 0.31}, start | {"guard": 0.21})


def test_where_the_guard_takes_no_state_whole_the_best_is_left_for_a_part_of_it() -> None:
    """A part of it may please the guard, which is seen afterwards."""
    guard = Guard(FunctionMetric(wants_gray, "gray"), bound=0.0, looks=None)
    settings = Settings(iterations=6, lr=0.2, preservation=0, validate_every=1, patience=9)

    def learned(in_part: bool) -> tuple[Tint, Outcome]:
        variable = Tint()
        metric = FunctionMetric(pays_for_red, "red")
        objective = MetricObjective(Renderer(ToyModel()), metric, guard=guard)
        outcome = optimize(
            objective, variable, TRAINING, VALIDATION, settings, guard=guard, in_part=in_part
        )
        return variable, outcome

    variable, outcome = learned(in_part=False)
    looks = [row["validation"] for row in outcome.history]
    assert not any(guard.accepts(look, looks[0]) for look in looks[1:])
    assert outcome.best_iteration == 0
    assert variable.color.abs().max() == 0
    variable, outcome = learned(in_part=True)
    looks = [row["validation"] for row in outcome.history]
    assert outcome.best_iteration == min(range(7), key=lambda i: looks[i]["objective"]) > 0
    assert variable.color.abs().max() > 0.1


def rows(*guards: float, back: int | None = None) -> list[dict]:
    """Records with such guards; after the one of that number the loop went back."""
    found: list[dict] = [{"validation": {"guard": g, "guard_error": 0.0}} for g in guards]
    if back is not None:
        found[back]["step_scale"] = 0.5
    return found


def test_it_is_astray_after_so_many_refused_looks_since_it_went_back() -> None:
    guard = Guard(FunctionMetric(wants_gray, "gray"), 0.1, None, way_back=2)
    assert not guard.is_astray(rows(0.0, 1.0))
    assert guard.is_astray(rows(0.0, 1.0, 1.0))
    assert not guard.is_astray(rows(0.0, 1.0, 0.1))
    assert not guard.is_astray(rows(0.0, 1.0, 1.0, 1.0, back=2))
    assert guard.is_astray(rows(0.0, 1.0, 1.0, 1.0, 1.0, back=2))
    gap: list[dict] = [{"iteration": 1}]  # a step without a look
    assert guard.is_astray([*rows(0.0, 1.0), *gap, *rows(1.0)])
    assert not Guard(guard.metric, 0.1).is_astray(rows(0.0, 1.0, 1.0, 1.0))


def test_a_run_that_is_astray_goes_back_and_takes_smaller_steps() -> None:
    """And so comes nearer to the limit than one that never does."""
    metric = FunctionMetric(wants_gray, "gray")
    found = {}
    for way_back in (None, 2):
        _, outcome = learn(Guard(metric, 0.1, None, way_back=way_back))
        start, *_ = seen = looks(outcome)
        scales = [r["step_scale"] for r in outcome.history if "step_scale" in r]
        assert scales == [0.5**k for k in range(1, len(scales) + 1)]
        assert bool(scales) == bool(way_back)
        best = seen[outcome.best_iteration]
        assert best["guard"] <= Guard(metric, 0.1).limit(start)
        found[way_back] = best["metric"]
    assert found[2] < found[None]


def test_a_resumed_run_goes_back_at_the_same_iterations(tmp_path) -> None:
    guard = Guard(FunctionMetric(wants_gray, "gray"), 0.1, None, way_back=3)
    expected, whole = learn(guard)
    variable, resumed = resumed_after(5, guard, tmp_path)
    scales = [[r.get("step_scale") for r in run.history] for run in (whole, resumed)]
    assert scales[0] == scales[1]
    assert any(scales[0])
    assert torch.equal(variable.color, expected.color)


def test_the_fifth_way_back_from_full_steps_ends_a_run() -> None:
    def history(first: float, guard: float = 1.0, ways: int = 5) -> list[dict]:
        found = rows(0.0, *[guard] * 10)
        for k in range(ways):
            found[2 * k + 2]["step_scale"] = first * 0.5 ** (k + 1)
        return found

    guard = Guard(FunctionMetric(wants_gray, "gray"), 0.1, None, way_back=2)
    assert guard.reason_to_stop(rows(0.0, 1.0)) is None
    assert guard.reason_to_stop(history(1.0, ways=4)) is None
    assert "3%" in str(guard.reason_to_stop(history(1.0)))
    assert guard.reason_to_stop(history(3.0)) is None  # a second try took larger steps
    assert guard.reason_to_stop(history(1.0, guard=0.05)) is None  # nothing was refused
    assert replace(guard, way_back=None).reason_to_stop(history(1.0)) is None


def test_a_run_that_goes_back_again_and_again_ends_there() -> None:
    guard = Guard(FunctionMetric(wants_gray, "gray"), 0.1, None, way_back=1)
    variable = Tint()
    objective = MetricObjective(
        Renderer(ToyModel()), FunctionMetric(pays_for_red, "red"), guard=guard
    )
    settings = replace(SETTINGS, iterations=60, patience=60)
    outcome = optimize(objective, variable, TRAINING, VALIDATION, settings, guard=guard)
    scales = [row["step_scale"] for row in outcome.history if "step_scale" in row]
    assert scales == [0.5**k for k in range(1, 6)]
    assert "the guard refuses" in outcome.stopped
    assert len(outcome.history) < 60
