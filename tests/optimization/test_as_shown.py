"""What a metric sees in a run: colours that can be shown. Its gradient leads back to them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from adjointdpm.metrics import FunctionMetric
from adjointdpm.optimization.as_shown import as_shown
from adjointdpm.optimization.loop import Settings, optimize
from adjointdpm.optimization.objective import MetricObjective
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.variables import Example
from helpers.toys import Tint, ToyModel

EXAMPLES = [Example("a", seed) for seed in range(4)]


@given(st.integers(0, 2**32 - 1))
def test_values_are_clamped_and_a_small_step_against_the_gradient_is_that_of_the_projection(
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) + 0.5
    wanted = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64) * 3 - 1
    images.requires_grad_()
    shown = as_shown(images)
    assert torch.equal(shown, images.clamp(0, 1))
    (gradient,) = torch.autograd.grad((shown - wanted).square().sum(), images)
    inside = (images >= 0) & (images <= 1)
    straight = 2 * (images.clamp(0, 1) - wanted).detach()
    assert torch.equal(gradient[inside], straight[inside])
    # Beyond, a step goes back or nowhere, and it goes back wherever that is better.
    outward = (images - images.clamp(0, 1)).sign()
    assert ((-gradient * outward)[~inside] <= 0).all()
    assert torch.equal(gradient != 0, inside | (straight * outward > 0))


def test_sound_is_left_alone() -> None:
    sound = torch.randn(2, 1, 50)
    assert as_shown(sound) is sound


def learned(score, start: float = 0.0) -> tuple[Tint, list[float]]:
    """What a run learns, and the metric of its looks."""
    variable = Tint()
    with torch.no_grad():
        variable.tensors()["color"].fill_(start)
    settings = Settings(iterations=60, lr=0.3, preservation=0, validate_every=1, patience=99)
    objective = MetricObjective(Renderer(ToyModel()), FunctionMetric(score, "own"))
    outcome = optimize(objective, variable, EXAMPLES, EXAMPLES, settings)
    return variable, [row["validation"]["metric"] for row in outcome.history]


def test_nothing_is_gained_beyond_white() -> None:
    """A metric that wants colours without end gets white, and what the run says is what is seen."""
    variable, looks = learned(lambda images: -images.mean((1, 2, 3)))
    assert looks[-1] < -0.99
    assert min(looks) >= -1.0
    pictures = Renderer(ToyModel()).look(EXAMPLES, variable)
    assert -pictures.mean().item() == pytest.approx(min(looks), abs=1e-6)


def test_a_run_that_starts_far_beyond_white_comes_back() -> None:
    _, looks = learned(lambda images: images.mean((1, 2, 3)), start=6.0)
    assert looks[0] > 0.99
    assert looks[-1] < 0.7


def test_a_metric_that_cannot_be_computed_beyond_black_is_never_asked_to() -> None:
    def entropy(images: Tensor) -> Tensor:
        return -(images + 1e-6).log().mean((1, 2, 3))

    _, looks = learned(entropy, start=-6.0)
    assert all(math.isfinite(value) for value in looks)
    assert looks[-1] < looks[0]
