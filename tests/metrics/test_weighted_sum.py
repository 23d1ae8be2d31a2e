"""Metrics of very different scale count alike once they are divided by their spread."""

import pytest
import torch
from torch import Tensor

from adjointdpm import errors
from adjointdpm.metrics import FunctionMetric, WeightedSum


def times(factor: float) -> FunctionMetric:
    return FunctionMetric(lambda images: factor * images.mean((1, 2, 3)) + 7, f"times{factor:g}")


def images(count: int = 8) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_scale_of_a_metric_does_not_matter_after_normalising() -> None:
    plain = images()
    gradients = []
    for factor in (1e-3, 1.0, 1e4):
        parts = [times(1.0), times(factor)]
        both = WeightedSum(parts, [1, 2]).normalised([part(plain) for part in parts])
        for part, spread in zip(parts, both.spreads or (), strict=True):
            assert spread == pytest.approx(part(plain).std().item(), rel=5e-3)  # 3 digits
        seen = plain.clone().requires_grad_()
        gradients.append(torch.autograd.grad(both(seen).sum(), seen)[0])
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-2, atol=0)
    spread = plain.mean((1, 2, 3)).std().item()
    assert gradients[0].sum().item() == pytest.approx(3 * 8 / spread, rel=1e-2)
    assert "1·times1 / spread + 2·times10000 / spread" in both.name


def test_a_metric_that_does_not_vary_counts_as_it_is_with_a_warning() -> None:
    flat = FunctionMetric(lambda images: images.mean((1, 2, 3)) * 0 + 3, "flat")
    with pytest.warns(errors.AdjointDPMWarning, match="metric flat is 3 for all of 8"):
        both = WeightedSum([flat, times(1)], [1, 1]).normalised(
            [flat(images()), times(1)(images())]
        )
    assert (both.spreads or [])[0] == 1
    with pytest.warns(errors.AdjointDPMWarning, match="for all of 1 "):
        WeightedSum([times(1)], [1]).normalised([times(1)(images(1))])


@pytest.mark.parametrize("spreads", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_impossible_spreads_are_refused(spreads) -> None:
    with pytest.raises(errors.InvalidInputError, match="positive spreads"):
        WeightedSum([times(1), times(2)], [1, 1], spreads)
