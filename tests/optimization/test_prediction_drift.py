"""The drift of predictions: its value against stock diffusers, its gradient against differences."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from adjointdpm import errors
from adjointdpm.metrics import resolve
from adjointdpm.optimization.float16_scaling import GradientScale
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.prediction_drift import NetworkCall, PredictionDrift
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.optimization.settings import Settings
from adjointdpm.pipelines import from_pipeline
from adjointdpm.variables import Example, LoRA, Noise, Variable, Weights
from benchmarks.pipelines.cases import CASES, build
from helpers.tiny_pipelines import tiny_pipeline

EXAMPLES = [Example("red fox", 1), Example("owl", 2)]
CHANGED = 0.3  # what the matrices B are filled with, about


def wide_model(folder: Path):
    return from_pipeline(tiny_pipeline(folder).to(dtype=torch.float64))


def changed_(variable: Variable) -> list[Tensor]:
    """Move the variable away from its start, and return its tensors."""
    source = torch.Generator().manual_seed(3)
    tensors = list(variable.tensors().values())
    with torch.no_grad():
        for tensor in tensors:
            noise = torch.randn(tensor.shape, generator=source, dtype=tensor.dtype)
            tensor += CHANGED * 0.1 * noise
    return tensors


def seen_calls(drift: PredictionDrift, render: Renderer, variable: Variable) -> list[NetworkCall]:
    with drift.watching("key") as calls, torch.no_grad():
        render(EXAMPLES, variable)
    return calls


@pytest.mark.parametrize("cls", [LoRA, Weights])
def test_the_gradient_is_that_of_finite_differences_at_fixed_states(cls, tmp_path) -> None:
    model = wide_model(tmp_path)
    variable, render = cls(model.pipe), Renderer(model, 5, 3.0)
    with variable:
        drift, tensors = PredictionDrift(model.pipe, variable), changed_(variable)
        calls = seen_calls(drift, render, variable)
        value, gradients = drift.gradients(calls, tensors, GradientScale(), False)
        assert value > 1e-4
        source = torch.Generator().manual_seed(5)
        ways = [torch.randn(t.shape, generator=source, dtype=t.dtype) for t in tensors]
        slope = sum(
            (g * w).sum().item() for g, w in zip(gradients, ways, strict=True) if g is not None
        )
        ends = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                for tensor, way in zip(tensors, ways, strict=True):
                    tensor += step * way
            ends.append(drift.gradients(calls, tensors, GradientScale(), False)[0])
        # The distance itself is taken in float32.
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(slope, rel=2e-2)


def test_the_value_is_the_distance_of_two_stock_networks(tmp_path) -> None:
    model = wide_model(tmp_path)
    variable = LoRA(model.pipe, 2)
    with variable:
        drift = PredictionDrift(model.pipe, variable)
        assert drift.value(seen_calls(drift, Renderer(model, 4, 3.0), variable)) == 0
        changed_(variable)
        calls = seen_calls(drift, Renderer(model, 4, 3.0), variable)
        value = drift.value(calls)
        variable.save(tmp_path)
    fresh, adapted = (tiny_pipeline(tmp_path).to(dtype=torch.float64) for _ in range(2))
    adapted.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    expected = []
    for call in calls:
        with torch.no_grad():
            base, other = (p.unet(*call.args, **call.kwargs)[0] for p in (fresh, adapted))
        shares = (other - base).square().sum((1, 2, 3)) / base.square().sum((1, 2, 3))
        expected.append(shares.mean().item())
    assert len(calls) == 2
    assert value == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_calls_are_chosen_by_the_key_and_not_always_the_first(tmp_path) -> None:
    model = from_pipeline(tiny_pipeline(tmp_path))
    variable, render = LoRA(model.pipe), Renderer(model, 8)
    with variable:
        drift = PredictionDrift(model.pipe, variable)

        def times(key: str) -> list[float]:
            with drift.watching(key) as calls, torch.no_grad():
                render(EXAMPLES[:1], variable)
            return [float(torch.as_tensor(call.args[1]).flatten()[0]) for call in calls]

        assert times("a") == times("a")
        assert len({t for key in "abcdefgh" for t in times(key)}) > 3
        assert not model.pipe.unet._forward_hooks


def test_the_objective_adds_it_with_its_weight(tmp_path) -> None:
    model = wide_model(tmp_path)
    metric, weight = resolve("color:mood=dusk"), 0.7

    def gradient_of(kl: float) -> tuple[dict[str, float], list[Tensor]]:
        variable = LoRA(model.pipe, 2)
        with variable:
            tensors = changed_(variable)
            objective = MetricObjective(Renderer(model, 4, 3.0), metric)
            objective.prepare(variable, EXAMPLES, Settings(kl=kl, preservation=0))
            values = objective.backward(EXAMPLES)
            looked = objective.look(EXAMPLES)
            assert ("kl" in looked) == ("kl" in values) == bool(kl)
            return values, [t.grad for t in tensors if t.grad is not None]

    (plain, without), (held, with_it) = gradient_of(0.0), gradient_of(weight)
    assert held["metric"] == plain["metric"]
    assert held["objective"] == pytest.approx(plain["metric"] + weight * held["kl"])
    variable = LoRA(model.pipe, 2)
    with variable:
        tensors, drift = changed_(variable), PredictionDrift(model.pipe, variable)
        with drift.watching("0 step 0") as calls, torch.no_grad():
            Renderer(model, 4, 3.0)(EXAMPLES, variable)
        value, alone = drift.gradients(calls, tensors, GradientScale(), False)
    assert held["kl"] == pytest.approx(value)
    for a, b, c in zip(without, with_it, alone, strict=True):
        assert c is not None
        assert c.abs().max() > 0
        assert torch.allclose(b - a, weight * c, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["FluxPipeline", "ZImagePipeline", "DDPMPipeline"])
def test_it_works_for_other_families(name: str) -> None:
    model = from_pipeline(build(name))
    variable = Weights(model.pipe)
    example = Example("red fox", 0)
    size = {k: v for k, v in CASES[name].arguments.items() if k in ("height", "width")}
    with variable:
        objective = MetricObjective(Renderer(model, 2, arguments=size), resolve("color:mood=dusk"))
        objective.prepare(variable, [example], Settings(kl=1.0, preservation=0))
        assert objective.look([example])["kl"] == 0
        changed_(variable)
        assert objective.look([example])["kl"] > 1e-6
        assert objective.backward([example])["kl"] > 1e-6


def test_a_network_whose_calls_cannot_be_seen_is_told_and_left_out(tmp_path) -> None:
    model = from_pipeline(tiny_pipeline(tmp_path))
    variable = LoRA(model.pipe)
    model.pipe.components["unet"].register_forward_hook = lambda *_, **__: SimpleNamespace(
        remove=lambda: None
    )
    with variable:
        objective = MetricObjective(Renderer(model, 2), resolve("color:mood=dusk"))
        with pytest.warns(errors.AdjointDPMWarning, match="cannot|not called"):
            objective.prepare(variable, EXAMPLES, Settings(kl=1.0, preservation=0))
        assert objective.look(EXAMPLES).keys() == {"metric", "objective"}


def test_what_changes_no_network_has_no_drift(tmp_path) -> None:
    model = from_pipeline(tiny_pipeline(tmp_path))
    noise = Noise(EXAMPLES[:1], model.noise(1, 1))
    with pytest.raises(errors.InvalidInputError, match="kl"):
        PredictionDrift(model.pipe, noise)
    assert isinstance(model.pipe.unet, nn.Module)
