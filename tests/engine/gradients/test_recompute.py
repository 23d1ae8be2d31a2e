"""Recomputed calls: one node of the autograd graph each."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.engine.gradients.autograd.recompute import Recomputation
from helpers.mixtures import relative_error

SCHEDULE = adj.NoiseSchedule.linear()


class Untouchable(torch.autograd.Function):
    """The identity, with a gradient that must not be asked for."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise AssertionError("a gradient that nobody asked for was computed")


class Network(nn.Module):
    def __init__(self, through=lambda w: w) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Parameter(torch.randn(4, 4).double()),
            nn.Parameter(torch.randn(4).double()),
        )
        self.through = through

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return torch.tanh(x @ self.through(self.a) + self.b * cond) * torch.sin(t / 300)[:, None]


def noise(rows: int = 3) -> Tensor:
    return torch.randn(rows, 4).double().requires_grad_()


def sample(network, x: Tensor, cond: Tensor, method) -> Tensor:
    return adj.sample(network, x, schedule=SCHEDULE, cond=cond, steps=6, gradient=method)


@pytest.mark.parametrize("how", ["grad", "backward"])
def test_only_what_is_asked_for_is_computed(how):
    torch.manual_seed(0)
    network, x, cond = (
        Network(Untouchable.apply),
        noise(),
        torch.ones(3, 4).double().requires_grad_(),
    )
    loss = sample(network, x, cond, adj.Checkpoint()).square().sum()
    if how == "grad":
        torch.autograd.grad(loss, [x, cond, network.b], retain_graph=True)
        with pytest.raises(AssertionError, match="nobody asked"):
            torch.autograd.grad(loss, network.a)
    else:
        loss.backward(inputs=[x, network.b], retain_graph=True)
        assert x.grad is not None
        assert network.b.grad is not None
        assert network.a.grad is None
        with pytest.raises(AssertionError, match="nobody asked"):
            loss.backward()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_derivatives_of_any_order_equal_those_of_backpropagation(seed):
    torch.manual_seed(seed)
    network, x, cond = Network(), noise(), torch.randn(3, 4).double().requires_grad_()
    orders = []
    for method in (adj.Backprop(), adj.Checkpoint()):
        value, found = sample(network, x, cond, method).sin().sum(), []
        for order in range(3):
            # The first derivative is for the weights, the others for all: what one pass does not
            # want, the next may.
            sources = [network.a] if order == 0 else [x, cond, network.a, network.b]
            gradients = torch.autograd.grad(value, sources, create_graph=True)
            found.extend(gradients)
            value = torch.stack([g.square().sum() for g in gradients]).sum()
        orders.append(found)
    for ours, exact in zip(*orders, strict=True):
        assert relative_error(ours, exact) < 1e-10


def test_a_leaf_that_is_returned_or_used_twice_gets_all_of_its_gradient():
    leaf, other = torch.randn(3, 4).double().requires_grad_(), noise()
    recompute = Recomputation()
    for fn in (lambda x: leaf, lambda x: leaf * x + leaf, lambda x: other * x * leaf, lambda x: x):
        expected = torch.autograd.grad(fn(other).sin().sum(), [leaf, other], allow_unused=True)
        ours = torch.autograd.grad(
            recompute(fn, other).sin().sum(), [leaf, other], allow_unused=True
        )
        for a, b in zip(ours, expected, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.equal(a, b)


def test_an_output_that_depends_on_nothing_differentiable_is_a_constant():
    assert not Recomputation()(lambda x: x * 2, torch.ones(2)).requires_grad


def test_an_argument_that_is_not_used_is_not_part_of_the_graph():
    x, unused = noise(), noise()
    out = Recomputation()(lambda x, unused: x * 2, x, unused)
    assert torch.autograd.grad(out.sum(), [x, unused], allow_unused=True)[1] is None
    assert not Recomputation()(lambda x, unused: x * 2, x.detach(), unused).requires_grad


def test_dropout_is_that_of_backpropagation_where_a_captured_tensor_needs_autograd():
    source = torch.ones(4).double().requires_grad_()
    captured = source * 2
    x = noise()
    results = []
    for method in (adj.Backprop(), adj.Checkpoint()):
        torch.manual_seed(5)
        out = sample(
            lambda x, t, c: nn.functional.dropout(torch.tanh(x * captured), 0.3),
            x,
            torch.zeros(3, 1),
            method,
        )
        results.append(torch.autograd.grad(out.sin().sum(), [x, source], retain_graph=True))
    for ours, exact in zip(*results, strict=True):
        assert relative_error(ours, exact) < 1e-12


def test_a_released_graph_releases_its_states():
    network, cond = Network(), torch.zeros(3, 4).double()
    held: list[weakref.ref[Tensor]] = []

    def remember(x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return network(x, t, c)

    x = noise()
    gc.disable()
    try:
        state = x * 1
        held.append(weakref.ref(state))
        out = Recomputation()(remember, state, torch.ones(3).double(), cond)
        del state
        out.sum().backward()
        assert held[0]() is None
    finally:
        gc.enable()


class Experts(nn.Module):
    """Different weights at different times, and perhaps a tensor that is none of its own."""

    def __init__(self, captured: Tensor | None = None, late: bool = False) -> None:
        super().__init__()
        self.noisy, self.clean = (nn.Parameter(torch.randn(4, 4).double()) for _ in range(2))
        self.captured, self.late = captured, late

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        early = bool(t[0] > 0.5)  # the schedule's clock goes from 1 to 0
        y = torch.tanh(x @ (self.noisy if early else self.clean))
        return y if self.captured is None or (self.late and early) else y * self.captured[0]


@pytest.mark.parametrize("budget", [None, 3000])
def test_a_module_may_use_its_weights_at_some_times_only(budget):
    torch.manual_seed(0)
    captured = torch.randn(1, 4).double().requires_grad_()
    network, x = Experts(captured), noise()
    results = []
    for method in (adj.Backprop(), adj.Checkpoint(budget)):
        out = sample(network, x, torch.zeros(3, 4), method)
        results.append(
            torch.autograd.grad(out.sin().sum(), [x, network.noisy, network.clean, captured])
        )
    for ours, exact in zip(*results, strict=True):
        assert relative_error(ours, exact) < 1e-12


def test_what_a_module_captures_at_later_times_only_is_an_error():
    network = Experts(torch.ones(1, 4).double().requires_grad_(), late=True)
    out = sample(network, noise(), torch.zeros(3, 4), adj.Checkpoint())
    with pytest.raises(adj.errors.CapturedTensorError, match="first time"):
        out.sum().backward()


@pytest.mark.parametrize(
    "through", [lambda w: w, lambda w: w.clone()], ids=["parameters", "their copies"]
)
def test_a_held_graph_is_used_once_and_then_run_again(through):
    torch.manual_seed(1)
    network, x, cond = Network(through), noise(), torch.ones(3, 4).double().requires_grad_()
    t = torch.full((3,), 100.0).double()
    wanted = [x, cond, *network.parameters()]
    expected = torch.autograd.grad(network(x, t, cond).square().sum(), wanted)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    loss = Recomputation(network).held(network, x, t, cond).square().sum()
    for made in (1, 2, 3):
        found = torch.autograd.grad(loss, wanted, retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert calls == [True] * made
    penalty = torch.autograd.grad(loss, x, create_graph=True)[0].square().sum()
    (second,) = torch.autograd.grad(penalty, cond)
    (gradient,) = torch.autograd.grad(network(x, t, cond).square().sum(), x, create_graph=True)
    assert relative_error(second, torch.autograd.grad(gradient.square().sum(), cond)[0]) < 1e-10


def test_a_held_graph_goes_with_its_output():
    network, x = Network(), noise()
    output = Recomputation(network).held(
        network, x, torch.ones(3).double(), torch.ones(3, 4).double()
    )
    saved = weakref.ref(output.grad_fn)
    del output
    gc.collect()
    assert saved() is None
