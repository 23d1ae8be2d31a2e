"""What is measured works without float64 (Apple's GPUs have none): it is computed on the CPU."""

import pytest
import torch
from torch import Tensor

from adjointdpm.optimization.gradient_check import gradient_error
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.variables import Example, Noise
from helpers.toys import REDDISH, Tint, ToyModel


@pytest.fixture
def float64_on_the_cpu_alone(monkeypatch) -> None:
    """Let `double` take only what `cpu` has returned."""
    moved: list[Tensor] = []
    cpu, double = Tensor.cpu, Tensor.double

    def to_cpu(self: Tensor) -> Tensor:
        moved.append(cpu(self))
        return moved[-1]

    def to_double(self: Tensor) -> Tensor:
        assert any(self is tensor for tensor in moved), "this device has no float64"
        return double(self)

    monkeypatch.setattr(Tensor, "cpu", to_cpu)
    monkeypatch.setattr(Tensor, "double", to_double)


@pytest.mark.usefixtures("float64_on_the_cpu_alone")
def test_the_naturalness_of_noise_needs_no_float64_on_its_device() -> None:
    noise = Noise(
        [Example("a", 0)], torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    )
    assert noise.naturalness()[0]["rms_change"] == 0


@pytest.mark.usefixtures("float64_on_the_cpu_alone")
def test_the_error_of_a_gradient_needs_no_float64_on_its_device() -> None:
    (row,) = gradient_error(Renderer(ToyModel()), Tint(), REDDISH, [Example("a", 0)])
    assert row["relative_error"] == 0
    assert row["cosine"] == pytest.approx(1)
