"""Every optimiser learns, goes through checkpoints bit for bit, and is found by name."""

import builtins
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm import errors
from adjointdpm.optimization.loop import Interrupted, Outcome, Settings, optimize
from adjointdpm.optimization.objective import MetricObjective, Objective
from adjointdpm.optimization.optimizers import OPTIMIZERS, make_optimizer, pack_state, unpack_state
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.variables import Example, Joint
from helpers.toys import REDDISH, Tint, ToyModel

EXAMPLES = [Example("a", seed) for seed in range(4)]
LR = {"normalized": 0.1, "adam": 0.1, "sgd": 0.5, "prodigy": 1.0, "lbfgs": 1.0}


def settings(optimizer: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "iterations": 10,
        "batch": 2,
        "preservation": 0.0,
        "validate_every": 2,
        "checkpoint_every": 1,
        "patience": 9,
    }
    return Settings(**values | {"optimizer": optimizer, "lr": LR[optimizer]} | changes)


def learn(optimizer: str, objective: Objective | None = None, **kwargs: Any):
    variable, changes = Tint(), kwargs.pop("changes", {})
    outcome = optimize(
        objective or MetricObjective(Renderer(ToyModel()), REDDISH),
        variable,
        EXAMPLES,
        EXAMPLES,
        settings(optimizer, **changes),
        **kwargs,
    )
    return variable.color.detach().clone(), outcome


def without_times(outcome: Outcome) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in outcome.history]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(name: str) -> None:
    # Prodigy starts with steps of about 1e-6, and doubles its estimate at best.
    _, outcome = learn(name, changes={"iterations": 60 if name == "prodigy" else 12})
    looks = [r["validation"]["metric"] for r in outcome.history if "validation" in r]
    assert min(looks) < 0.7 * looks[0]


@pytest.mark.parametrize("changes", [{}, {"lr_schedule": "cosine", "ema": 0.5, "distance": 0.1}])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_interrupted_run_resumed_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path, name: str, changes: dict[str, Any]
) -> None:
    seen: list[dict[str, Any]] = []

    def stop_at_six(history: list[dict[str, Any]]) -> None:
        seen[:] = history
        if history[-1]["iteration"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    whole, expected = learn(name, changes=changes)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Interrupted):
        learn(name, changes=changes, checkpoints=checkpoints, on_history=stop_at_six)
    again, outcome = learn(
        name,
        changes=changes,
        checkpoints=checkpoints,
        resume=True,
    )
    assert torch.equal(again, whole)
    assert without_times(outcome) == without_times(expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_survives_a_checkpoint_of_several_tensors(tmp_path: Path, name: str) -> None:
    def fresh() -> list[Tensor]:
        return [torch.ones(3, requires_grad=True), torch.full((2, 2), 0.5, requires_grad=True)]

    def steps(optimizer: torch.optim.Optimizer, tensors: list[Tensor], count: int) -> None:
        def evaluate() -> float:
            optimizer.zero_grad()
            loss = sum((((t - 0.2) ** 4).sum() + t.prod()) / 50 for t in tensors)
            loss.backward()
            return loss.item()

        for _ in range(count):
            optimizer.step(evaluate)

    tensors = fresh()
    optimizer = make_optimizer(name, tensors, LR[name])
    steps(optimizer, tensors, 4)
    state, facts = pack_state(optimizer)
    assert state.keys() >= {"optimizer/state/0/exp_avg"} or name != "adam"
    Checkpoints(tmp_path).write(4, state, {"facts": facts})
    stored, read = Checkpoints(tmp_path).read()
    copies = [t.detach().clone().requires_grad_() for t in tensors]
    other = make_optimizer(name, copies, 123.0)
    unpack_state(other, stored, read["facts"])
    assert other.param_groups[0]["lr"] == LR[name]
    steps(optimizer, tensors, 4)
    steps(other, copies, 4)
    assert all(map(torch.equal, tensors, copies))
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_adam_takes_the_steps_of_the_formula() -> None:
    gradients: list[Tensor] = []

    class Watched(MetricObjective):
        def backward(self, examples):
            values = super().backward(examples)
            gradients.append(next(iter(self.variable.tensors().values())).grad.clone())  # pyright: ignore[reportOptionalMemberAccess]
            return values

    objective = Watched(Renderer(ToyModel()), REDDISH)
    found, _ = learn("adam", objective, changes={"iterations": 3, "validate_every": 3})
    color, mean, square = torch.zeros(3), torch.zeros(3), torch.zeros(3)
    for step, gradient in enumerate(gradients, start=1):
        gradient = gradient * min(1.0, 1.0 / (gradient.norm().item() + 1e-6))
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        color -= 0.1 * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(found, color, rtol=1e-5, atol=1e-6)


def test_sgd_has_nesterovs_momentum() -> None:
    (tensor,) = tensors = [torch.zeros(1, requires_grad=True)]
    optimizer = make_optimizer("sgd", tensors, 0.1)
    for _ in range(2):
        tensor.grad = torch.ones(1)
        optimizer.step()
    assert tensor.item() == pytest.approx(-0.1 * ((1 + 0.9) + (1 + 0.9 * 1.9)))


def test_a_line_search_sees_unclipped_gradients_and_is_noted_once_an_iteration() -> None:
    evaluated: list[float] = []

    class Counted(MetricObjective):
        def backward(self, examples):
            values = super().backward(examples)
            evaluated.append(values["objective"])
            return values

    objective = Counted(Renderer(ToyModel()), REDDISH)
    _, outcome = learn("lbfgs", objective, changes={"batch": 4, "clip": 1e-6, "iterations": 4})
    training = [record["training"]["objective"] for record in outcome.history[1:]]
    assert len(training) == 4
    assert training == sorted(training, reverse=True)
    assert len(evaluated) > 4
    assert training[0] == evaluated[0]
    assert training[-1] < training[0] - 0.01  # steps of 1e-6 would not come that far


def test_another_objective_needs_no_metric(tmp_path) -> None:
    class Towards(Objective):
        """Pulls what is learned towards a colour, whatever is drawn."""

        name = "distance to a colour"

        def __init__(self) -> None:
            self.render, self.looks = Renderer(ToyModel()), 0

        def prepare(self, variable, examples, settings) -> None:
            self.variable, self.examples = variable, examples

        def backward(self, examples):
            (color,) = self.variable.tensors().values()
            loss = (color - torch.tensor([0.1, 0.2, 0.3])).square().sum()
            loss.backward()
            return {"objective": loss.item()}

        def look(self, examples):
            self.looks += 1
            with torch.no_grad():
                (color,) = self.variable.tensors().values()
                return {"objective": (color - torch.tensor([0.1, 0.2, 0.3])).square().sum().item()}

        def state_dict(self) -> dict[str, Any]:
            return {"looks": self.looks}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.looks = state["looks"]

    objective, resumed = Towards(), Towards()
    color, outcome = learn("lbfgs", objective, checkpoints=Checkpoints(tmp_path))
    torch.testing.assert_close(color, torch.tensor([0.1, 0.2, 0.3]), atol=1e-4, rtol=0)
    assert outcome.history[-1]["validation"]["objective"] < 1e-6
    assert set(objective.examples) == set(EXAMPLES)
    learn(
        "lbfgs",
        resumed,
        checkpoints=Checkpoints(tmp_path),
        resume=True,
    )
    assert resumed.looks == objective.looks == 6


def test_a_gradient_that_is_not_finite_names_the_objective() -> None:
    class Broken(MetricObjective):
        name = "broken"

        def backward(self, examples):
            values = super().backward(examples)
            for tensor in self.variable.tensors().values():
                tensor.grad = torch.full_like(tensor, math.nan)
            return values

    for name in OPTIMIZERS:
        with pytest.raises(errors.MetricError, match=r"gradient of broken .* became nan"):
            learn(name, Broken(Renderer(ToyModel()), REDDISH))


def test_an_optimizer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(errors.UnknownNameError, match=r"'adamw'.*adam, sgd, prodigy, lbfgs"):
        Settings(optimizer="adamw")
    with pytest.raises(errors.UnknownNameError, match="'adamw'"):
        make_optimizer("adamw", [], 0.1)


def test_without_its_package_prodigy_says_what_to_install(monkeypatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name == "prodigyopt":
            raise ImportError("No module named 'prodigyopt'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(errors.UnsupportedError, match="pip install prodigyopt"):
        learn("prodigy")


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path) -> None:
    learn("adam", checkpoints=Checkpoints(tmp_path))
    with pytest.raises(errors.CheckpointError, match="another optimizer, Adam"):
        learn("sgd", checkpoints=Checkpoints(tmp_path), resume=True)


def test_several_variables_are_learned_together_by_every_optimizer() -> None:
    class Second(Tint):
        pass

    for name in OPTIMIZERS:
        first, second = Tint(), Second()
        optimize(
            MetricObjective(Renderer(ToyModel()), REDDISH),
            Joint([first, second]),
            EXAMPLES,
            EXAMPLES,
            settings(name, iterations=2),
        )
        assert torch.equal(first.color, second.color)
        assert first.color.abs().max() > 0
