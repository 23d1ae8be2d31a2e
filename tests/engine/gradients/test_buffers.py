"""Buffers that a network changes advance once a call, however often a method runs it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from helpers.mixtures import relative_error

STEPS = 6
SCHEDULE = adj.NoiseSchedule.linear()
METHODS = {
    "exact": adj.Checkpoint(),
    "one graph": adj.Checkpoint(memory_budget=1),
    "all graphs": adj.Checkpoint(memory_budget=10**9),
    "last steps": adj.Truncated(last=2),
    "adjoint": adj.Adjoint(),
    "stored": adj.Adjoint(states="stored"),
    "few": adj.Interpolated(vjps=3),
    "auto": adj.Auto(),
}


class Normalized(nn.Module):
    """A network with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4).double(), nn.BatchNorm1d(4).double()

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self.norm(self.linear(x)) * t[:, None].cos()


class Averaged(nn.Module):
    """A network whose output depends on a buffer that each of its calls changes."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.linear, self.in_place = nn.Linear(4, 4).double(), in_place
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(4).double())

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        output = torch.tanh(self.linear(x) - self.mean.clone() * x)
        new = 0.7 * self.mean + 0.3 * output.detach().mean(0)
        if self.in_place:
            self.mean.copy_(new)
        else:
            self.mean = new
        return output


class Holder:
    """An object that runs a network."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def run(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self.network(x, t, cond)

    def __call__(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self.network(x, t, cond)


def bound(network: nn.Module, x: Tensor, t: Tensor, cond: Any) -> Tensor:
    return network(x, t, cond)


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda network: network,
    "closure": lambda network: lambda x, t, c: network(x, t, c),
    "method": lambda network: Holder(network).run,
    "object": Holder,
    "partial": lambda network: partial(bound, network),
    "denoiser": lambda network: adj.Denoiser(lambda x, t, c: network(x, t, c)),
}


def made(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().train()


def run(denoiser: Any, network: nn.Module, method: Any, **settings: Any) -> list[Tensor]:
    """The sample, and the gradients of noise and weights."""
    noise = torch.randn(8, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    noise.requires_grad_()
    sample = adj.sample(
        denoiser, noise, schedule=SCHEDULE, steps=STEPS, gradient=method, **settings
    )
    return [sample, *torch.autograd.grad(sample.sin().sum(), [noise, *network.parameters()])]


@pytest.mark.parametrize("name", METHODS)
def test_every_call_is_counted_once(name: str) -> None:
    network, plain = made(Normalized), made(Normalized)
    run(network, network, METHODS[name])
    with torch.no_grad():
        run_plainly(plain)
    assert network.norm.num_batches_tracked == plain.norm.num_batches_tracked == STEPS
    for ours, expected in zip(network.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


def run_plainly(network: nn.Module) -> None:
    noise = torch.randn(8, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    adj.sample(network, noise, schedule=SCHEDULE, steps=STEPS)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_network_within_a_function_is_found(wrapper: str) -> None:
    network = made(Normalized)
    run(WRAPPERS[wrapper](network), network, adj.Checkpoint())
    assert network.norm.num_batches_tracked == STEPS


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("wrapper", ["module", "closure"])
@pytest.mark.parametrize("budget", [None, 1, 10**9])
def test_a_second_run_starts_from_the_buffers_of_the_first(in_place, wrapper, budget) -> None:
    kind = partial(Averaged, in_place)
    network, plain = made(kind), made(kind)
    expected = run(plain, plain, adj.Backprop())
    found = run(WRAPPERS[wrapper](network), network, adj.Checkpoint(memory_budget=budget))
    for ours, full in zip(found, expected, strict=True):
        assert full.norm() > 0
        assert relative_error(ours, full) < 1e-12
    assert torch.equal(network.mean, plain.mean)
    assert plain.mean.norm() > 0


def test_captured_results_leave_buffers_alone_too() -> None:
    """There the call goes through torch's own checkpoint."""
    gradients, networks = [], []
    for method in (adj.Backprop(), adj.Checkpoint()):
        network = made(partial(Averaged, True))
        leaf = torch.ones(4, dtype=torch.double, requires_grad=True)
        shift = leaf * 2
        gradients += run(
            lambda x, t, c, network=network, shift=shift: network(x + shift, t, c), network, method
        )[1:2]
        networks.append(network)
    assert relative_error(gradients[1], gradients[0]) < 1e-12
    assert torch.equal(networks[0].mean, networks[1].mean)


def test_gradients_of_gradients_leave_buffers_alone() -> None:
    network = made(Normalized)
    noise = torch.randn(8, 4, dtype=torch.double).requires_grad_()
    sample = adj.sample(network, noise, schedule=SCHEDULE, steps=STEPS)
    (first,) = torch.autograd.grad(sample.sin().sum(), noise, create_graph=True)
    torch.autograd.grad(first.square().sum(), noise)
    assert network.norm.num_batches_tracked == STEPS


def test_a_failing_second_run_leaves_the_buffers_in_place() -> None:
    network, calls = made(Normalized), []

    def stop(*_: Any) -> None:
        calls.append(1)
        if len(calls) > STEPS:
            raise RuntimeError("second run")

    network.linear.register_forward_hook(stop)
    own = list(network.buffers())
    with pytest.raises(RuntimeError, match="second run"):
        run(network, network, adj.Checkpoint())
    assert all(a is b for a, b in zip(own, network.buffers(), strict=True))
    assert network.norm.num_batches_tracked == STEPS
