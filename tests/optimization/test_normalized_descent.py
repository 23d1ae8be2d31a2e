"""Steps of one length, in the units of what is learned."""

import pytest
import torch
from torch import Tensor

from adjointdpm.optimization.normalized_descent import NormalizedDescent


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rms(x: Tensor, over: list[int]) -> Tensor:
    return x.square().mean(over).sqrt()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_step_has_its_length_in_each_row_whatever_the_gradients_size(
    scale: float, seed: int
) -> None:
    x = torch.randn(3, 4, 5, generator=generator(seed)).requires_grad_()
    before, unit = x.detach().clone(), torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1)
    optimizer = NormalizedDescent([x], 0.1, [unit])
    x.grad = scale * torch.randn(3, 4, 5, generator=generator(seed + 9))
    optimizer.step()
    lengths = rms(x.detach() - before, [1, 2])
    assert torch.allclose(lengths, 0.1 * unit.flatten(), rtol=1e-5)
    gradient = (x.grad / scale).flatten(1)
    cosine = torch.cosine_similarity((before - x.detach()).flatten(1), gradient)
    assert torch.allclose(cosine, torch.ones(3), atol=1e-5)


def test_one_unit_for_a_tensor_normalises_over_all_of_it() -> None:
    x = torch.zeros(2, 3).requires_grad_()
    x.grad = torch.tensor([[3.0, 0, 0], [0, 4.0, 0]])
    NormalizedDescent([x], 0.1, [torch.full((1, 1), 2.0)]).step()
    assert torch.allclose(x, -0.2 * x.grad / rms(x.grad, [0, 1]))


def test_a_row_without_gradient_stays_and_the_others_move() -> None:
    x = torch.ones(2, 3).requires_grad_()
    x.grad = torch.tensor([[0.0, 0, 0], [1.0, 1, 1]])
    NormalizedDescent([x], 0.1, [torch.ones(2, 1)]).step()
    assert torch.equal(x[0], torch.ones(3))
    assert torch.allclose(x[1], torch.full((3,), 0.9))


def test_momentum_sums_normalised_gradients() -> None:
    x = torch.zeros(1, 2).requires_grad_()
    optimizer = NormalizedDescent([x], 1.0, [torch.ones(1, 1)], momentum=0.5)
    x.grad = torch.tensor([[5.0, 0.0]])
    optimizer.step()
    first = x.detach().clone()
    x.grad = torch.tensor([[0.0, 1e-3]])
    optimizer.step()
    # v = 0.5 · (√2, 0) + (0, √2), normalised.
    expected = torch.tensor([[0.5, 1.0]]) / (1.25 / 2) ** 0.5
    assert torch.allclose(first - x.detach(), expected)


def test_the_step_size_decides_how_close_it_comes_and_a_falling_one_converges() -> None:
    target = torch.randn(4, 6, generator=generator(3))
    x = torch.zeros(4, 6).requires_grad_()
    optimizer = NormalizedDescent([x], 0.2, [torch.ones(4, 1)])
    for iteration in range(60):
        optimizer.param_groups[0]["lr"] = 0.2 * (1 - iteration / 60)
        optimizer.zero_grad()
        (x - target).square().sum().backward()
        optimizer.step()
    assert (x - target).square().mean().sqrt() < 0.05
