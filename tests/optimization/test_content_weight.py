"""The content's weights suit any metric's scale, and fall where they cost all that it gains."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adjointdpm.metrics import FunctionMetric, Metric
from adjointdpm.optimization.content_weight import REFERENCE, lowered, scaled
from adjointdpm.optimization.loop import Outcome, Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.tasks.metric_spreads import spread_of
from adjointdpm.variables import Example
from helpers.toys import REDDISH, Tint, ToyModel

TRAINING = [Example("a", seed) for seed in range(4)]
VALIDATION = [Example("a", seed) for seed in range(50, 53)]
SETTINGS = Settings(
    iterations=20,
    lr=0.2,
    preservation=0.5,
    validate_every=1,
    patience=20,
    optimizer="normalized",
    lr_schedule="linear",
)


@dataclass
class Times(Metric):
    """A metric in another unit."""

    factor: float
    name: str = "times"

    def __call__(self, samples: Tensor, /, prompts=None) -> Tensor:
        return self.factor * REDDISH(samples, prompts=prompts)


class Pictures(ToyModel):
    """A model whose pictures lose their structure where they are tinted much."""

    device, dtype = torch.device("cpu"), torch.float32

    def generate(self, prompt, noise: Tensor, **_) -> Tensor:
        return torch.sigmoid(2 * noise * (1 + noise.mean((2, 3), keepdim=True).abs()))


def run(factor: float, settings: Settings) -> tuple[Tint, Outcome]:
    variable, render, metric = Tint(), Renderer(Pictures()), Times(factor)
    objective = MetricObjective(
        render, metric, measure_spread=lambda: spread_of(render, metric, TRAINING)
    )
    return variable, optimize(objective, variable, TRAINING, VALIDATION, settings)


@pytest.mark.parametrize("factor", [2.0**-12, 2.0**12])
def test_a_metric_in_another_unit_is_learned_alike(factor: float) -> None:
    here, _ = run(1.0, SETTINGS)
    there, _ = run(factor, SETTINGS)
    assert here.color.abs().max() > 0.3
    # The spread is rounded to three digits, and steps far on differ by more than that.
    assert torch.allclose(here.color, there.color, rtol=0.1, atol=0.02)


def test_without_a_measured_spread_weights_count_as_they_are_given() -> None:
    small, large = Tint(), Tint()
    settings = replace(SETTINGS, preservation=0.02)
    for variable, factor in ((small, 2.0**-12), (large, 1.0)):
        objective = MetricObjective(Renderer(Pictures()), Times(factor))
        optimize(objective, variable, TRAINING, VALIDATION, settings)
        assert objective.content == 1.0
    assert small.color.abs().max() < 0.1 < large.color.abs().max()


def test_weights_fall_where_the_content_costs_all_that_is_gained() -> None:
    settings = replace(SETTINGS, preservation=30.0)
    _, held = run(1.0, replace(settings, relax=False))
    _, relaxed = run(1.0, settings)
    metrics = [
        min(row["validation"]["metric"] for row in outcome.history) for outcome in (held, relaxed)
    ]
    assert any(row.get("content_lowered") for row in relaxed.history)
    assert not any("content_lowered" in row for row in held.history)
    best = relaxed.history[relaxed.best_iteration]["validation"]["metric"]
    assert best < held.history[held.best_iteration]["validation"]["metric"] - 0.02
    assert metrics[1] <= metrics[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_misfit_takes_the_place_of_the_structure_distance(seed: int) -> None:
    """Its weight counts in units of the metric's spread too, and it is held at all cost."""
    torch.manual_seed(seed)
    variable, render, metric = Tint(), Renderer(Pictures()), Times(100.0)
    variable.color.data.normal_()
    objective = MetricObjective(
        render,
        metric,
        misfit=FunctionMetric(lambda images: images.mean((1, 2, 3)), "bright"),
        measure_spread=lambda: spread_of(render, metric, TRAINING),
    )
    objective.prepare(variable, TRAINING, SETTINGS)
    objective.settle()
    assert objective.plain == {}
    values, pictures = objective.look(TRAINING), render.look(TRAINING, variable)
    assert values["misfit"] == pytest.approx(pictures.clamp(0, 1).mean().item(), rel=1e-5)
    assert "drift" not in values
    weight = SETTINGS.preservation * scaled(objective.spread)
    expected = values["metric"] + weight * values["misfit"]
    assert values["objective"] == pytest.approx(expected, rel=1e-6)
    assert objective.content_cost(values) == 0
    objective.backward(TRAINING)
    found = variable.color.grad.clone()
    slopes = []
    for channel in range(3):
        ends = []
        for step in (1e-3, -1e-3):
            with torch.no_grad():
                variable.color.data.view(-1)[channel] += step
                ends.append(objective.look(TRAINING)["objective"])
                variable.color.data.view(-1)[channel] -= step
        slopes.append((ends[0] - ends[1]) / 2e-3)
    torch.testing.assert_close(found.flatten(), torch.tensor(slopes), rtol=0.02, atol=0.02)


def test_a_run_goes_on_where_its_best_state_gets_better_by_next_to_nothing() -> None:
    settings = replace(SETTINGS, iterations=80, patience=80, backtrack=2, lr_schedule="constant")
    _, outcome = run(1.0, settings)
    assert outcome.history[-1]["iteration"] == 80


def test_the_average_is_kept_as_it_was_looked_at() -> None:
    settings = replace(SETTINGS, preservation=30.0, ema=0.5, iterations=12)
    variable, outcome = run(1.0, settings)
    kept = outcome.history[outcome.best_iteration]
    assert kept.get("content_lowered")  # it became the best by this, and by no look
    objective = MetricObjective(Renderer(Pictures()), Times(1.0))
    objective.prepare(variable, VALIDATION, settings)
    assert objective.look(VALIDATION)["metric"] == pytest.approx(kept["validation"]["metric"])


VALUES = st.fixed_dictionaries({name: st.floats(0, 10) for name in ("metric", "drift")})


@given(best=VALUES, now=VALUES, weight=st.floats(0, 100), spread=st.floats(1e-3, 5))
def test_after_a_lowering_the_newest_state_is_the_better_one(
    best: dict, now: dict, weight: float, spread: float
) -> None:
    def total(values, factor=1.0):
        return values["metric"] + factor * weight * values["drift"]

    def content(values):
        return weight * values["drift"]

    factor = lowered(best, now, total, content, spread)
    if factor == 1.0:
        gain = best["metric"] - now["metric"]
        small = gain < 0.25 * spread + 1e-9
        assert small or total(now) <= total(best) + 1e-6 * (1 + abs(total(best)))
    else:
        assert 0 < factor < 1
        assert total(now, factor) < total(best, factor)


def test_a_metric_of_usual_spread_or_of_none_leaves_the_weights_as_they_are() -> None:
    assert scaled(REFERENCE) == scaled(0.0) == 1.0
    assert scaled(10 * REFERENCE) == pytest.approx(10.0)
