"""Every variable that changes the model or its inputs: its gradient through whole pictures, its
regularisers, and the loop.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import adjointdpm as adj
from adjointdpm import metrics
from adjointdpm.optimization.loop import Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import from_pipeline
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.variables import (
    Example,
    Joint,
    LoRA,
    Noise,
    PromptEmbedding,
    TokenEmbedding,
    Variable,
    Weights,
)
from helpers.tiny_pipelines import tiny_pipeline

EXAMPLES = [Example("red fox", 0), Example("owl", 1)]


def make_noise(model: DiffusionModel) -> Variable:
    return Noise(EXAMPLES, torch.cat([model.noise(1, e.seed) for e in EXAMPLES]))


VARIABLES: dict[str, Callable[[DiffusionModel], Variable]] = {
    "noise": make_noise,
    "embedding": lambda model: PromptEmbedding(model, "red fox"),
    "lora": lambda model: LoRA(model.pipe, rank=2),
    "weights": lambda model: Weights(model.pipe),
    "some_weights": lambda model: Weights(model.pipe, only=r"attn2\.to_k"),
}
each = pytest.mark.parametrize("make", VARIABLES.values(), ids=VARIABLES)


@pytest.fixture
def model(tmp_path) -> DiffusionModel:
    return from_pipeline(tiny_pipeline(tmp_path))


@pytest.fixture
def precise(model) -> DiffusionModel:
    for part in (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder):
        part.double()
    return model


def leave_the_start(variable: Variable) -> None:
    """LoRA's B = 0 hides the gradient of A."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in variable.tensors().values():
            tensor.add_(0.02 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))


def slope(
    loss: Callable[[], Tensor], tensors: list[Tensor], directions: list[Tensor], step: float = 1e-5
) -> Tensor:
    """The derivative of `loss` along `directions`, by central differences."""
    ends = []
    with torch.no_grad():
        for sign in (1, -1):
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor.add_(sign * step * direction)
            ends.append(loss())
            for tensor, direction in zip(tensors, directions, strict=True):
                tensor.sub_(sign * step * direction)
    return (ends[0] - ends[1]) / (2 * step)


@each
def test_the_gradient_reaches_every_tensor_and_equals_finite_differences(precise, make) -> None:
    variable = make(precise)
    with variable:
        leave_the_start(variable)
        tensors = list(variable.tensors().values())
        assert all(
            tensor.is_leaf and tensor.requires_grad and tensor.dtype == torch.float64
            for tensor in tensors
        )

        def gradient(method: Any) -> tuple[Tensor, ...]:
            pictures = Renderer(precise, steps=3, guidance_scale=3.0, gradient=method)(
                EXAMPLES, variable
            )
            return torch.autograd.grad(pictures.square().sum(), tensors)

        exact = gradient("exact")
        assert all(bool(g.abs().max() > 0) for g in exact)
        generator = torch.Generator().manual_seed(0)
        directions = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors]
        render = Renderer(precise, steps=3, guidance_scale=3.0)
        expected = slope(lambda: render(EXAMPLES, variable).square().sum(), tensors, directions)
        along = sum((g * d).sum() for g, d in zip(exact, directions, strict=True))
        torch.testing.assert_close(along, expected, rtol=1e-5, atol=1e-8)

        # For DDIM the adjoint on stored states is the transpose of the steps; the one that solves
        # the state back too is near it.
        for mine, theirs in zip(gradient(adj.Adjoint(states="stored")), exact, strict=True):
            torch.testing.assert_close(
                mine, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max())
            )
        for mine in gradient("adjoint"):
            assert bool(torch.isfinite(mine).all())
            assert bool(mine.abs().max() > 0)


@each
def test_regularisers_are_zero_at_the_start_and_differentiable(precise, make) -> None:
    variable = make(precise)
    with variable:
        assert variable.regularisers()["distance"].item() == 0
        leave_the_start(variable)
        tensors = list(variable.tensors().values())
        generator = torch.Generator().manual_seed(0)
        directions = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in tensors]
        for name in variable.regularisers():
            value = variable.regularisers()[name]
            assert value.ndim == 0
            assert value > 0 or name == "norm"  # a logarithm of a density
            along = sum(
                (g * d).sum()
                for g, d in zip(torch.autograd.grad(value, tensors), directions, strict=True)
            )
            expected = slope(lambda name=name: variable.regularisers()[name], tensors, directions)
            torch.testing.assert_close(along, expected, rtol=1e-6, atol=1e-9)


# LoRA's distance is that of the weights it changes, and has a test of its own.
@pytest.mark.parametrize(
    "make",
    [make for name, make in VARIABLES.items() if name != "lora"],
    ids=[n for n in VARIABLES if n != "lora"],
)
def test_a_change_as_large_as_the_start_has_distance_one(precise, make) -> None:
    variable = make(precise)
    with variable, torch.no_grad():
        for tensor in variable.tensors().values():
            tensor.mul_(2)
        assert variable.regularisers()["distance"].item() == pytest.approx(1)


class Lone(Variable):
    """Nothing but what every variable must have."""

    artefacts = ()

    def __init__(self) -> None:
        self.value = torch.full((3,), 2.0, requires_grad=True)

    def tensors(self) -> dict[str, Tensor]:
        return {"value": self.value}

    def save(self, folder: Path) -> Path:
        return folder


def test_the_base_class_knows_the_start_of_any_variable() -> None:
    loaded, entered, zero = Lone(), Lone(), Lone()
    loaded.load_tensors({"value": torch.full((3,), 3.0)})
    assert loaded.regularisers()["distance"].item() == pytest.approx(0.25)
    with entered, torch.no_grad():
        entered.value[0] = 0
    assert entered.regularisers()["distance"].item() == pytest.approx(1 / 3)
    zero.value = torch.zeros(
        3, requires_grad=True
    )  # relative to nothing: the mean square of the change itself
    with zero, torch.no_grad():
        zero.value[0] = 3
    assert zero.regularisers()["distance"].item() == pytest.approx(3)


@each
def test_the_loop_learns_it_and_keeps_the_model_as_it_was(model, make, tmp_path) -> None:
    before = {
        name: (p, p.detach().clone(), p.requires_grad)
        for name, p in model.pipe.unet.named_parameters()
    }
    render, metric = (
        Renderer(model, steps=2, guidance_scale=2.0),
        metrics.resolve("color:mood=dusk"),
    )
    plain = render.look(EXAMPLES)
    variable = make(model)
    settings = Settings(iterations=2, batch=2, lr=1e-3, validate_every=1, preservation=0.0)
    with variable:
        outcome = optimize(MetricObjective(render, metric), variable, EXAMPLES, EXAMPLES, settings)
        assert outcome.history[-1]["iteration"] == 2
        assert outcome.history[-1]["gradient_norm"] > 0
        assert not torch.equal(render.look(EXAMPLES, variable), plain)
        with variable.disabled():
            assert torch.equal(render.look(EXAMPLES), plain)
    assert torch.equal(render.look(EXAMPLES), plain)
    after = dict(model.pipe.unet.named_parameters())
    assert list(after) == list(before)
    for name, (parameter, value, flag) in before.items():
        assert after[name] is parameter
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == flag


@each
def test_what_a_checkpoint_holds_is_restored_before_or_inside_the_context(
    model, make, tmp_path
) -> None:
    first, second, third = make(model), make(model), make(model)
    render = Renderer(model, steps=2, guidance_scale=2.0)
    with first:
        leave_the_start(first)
        saved = {name: tensor.detach().clone() for name, tensor in first.tensors().items()}
        pictures = render.look(EXAMPLES, first)
    assert {name: tensor.shape for name, tensor in second.tensors().items()} == {
        name: tensor.shape for name, tensor in saved.items()
    }
    second.load_tensors(saved)
    with second:
        assert torch.equal(render.look(EXAMPLES, second), pictures)
        assert second.regularisers()["distance"] > 0
    with third:
        third.load_tensors(saved)
        assert torch.equal(render.look(EXAMPLES, third), pictures)
    with first:  # and what was learned is still there
        assert torch.equal(render.look(EXAMPLES, first), pictures)


SAVED = VARIABLES | {
    "token": lambda model: TokenEmbedding(model.pipe, "<t>", "fox"),
    "decoder": lambda model: Weights(model.pipe, "vae"),
    "joint": lambda model: Joint([make_noise(model), PromptEmbedding(model, "red fox")]),
}


@pytest.mark.parametrize("make", SAVED.values(), ids=SAVED)
def test_saving_leaves_what_the_variable_declares_and_nothing_else(model, make, tmp_path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    variable = make(model)
    with variable:
        path = variable.save(folder)
        variable.save(folder)  # again, over the first
    assert sorted(p.name for p in folder.iterdir()) == sorted(variable.artefacts)
    assert path == folder / variable.artefacts[0]
    assert len(variable.artefacts) == (2 if isinstance(variable, Joint) else 1)
