"""Other libraries' methods, which the gradient benchmark compares with, solve the problem that ours
solve.
"""

import math

import pytest
import torch

import adjointdpm as adj
from benchmarks.gradients.fashion import FashionNetwork, fashion_schedule
from benchmarks.gradients.methods import registered
from benchmarks.gradients.registration import Registration
from helpers.mixtures import Mixture


@pytest.fixture
def competitors():
    from benchmarks import competitors

    return competitors


def test_they_agree_with_what_they_are_compared_with(competitors):
    content = Registration().content
    table = adj.NoiseSchedule.from_alphas_cumprod(
        torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    )
    where = next(s for s in Registration().settings() if s.sampler == "ddim" and s.calls == 20)
    assert {m.name for m in registered(content, where)}.isdisjoint(
        m.name for m in competitors.competitors(where)
    )
    torch.manual_seed(0)
    network = Mixture(table, dim=3).requires_grad_(False)
    noise = torch.randn(2, 3, dtype=torch.float64)

    def gradient(method):
        x, cond = (
            noise.clone().requires_grad_(),
            torch.full((2, 3), 0.2, dtype=torch.float64, requires_grad=True),
        )
        y = adj.sample(
            network, x, schedule=table, cond=cond, grid=where.grid(table), gradient=method
        )
        return torch.cat([g.flatten() for g in torch.autograd.grad(y.square().sum(), [x, cond])])

    torch.testing.assert_close(
        gradient(competitors.CheckpointedLoop()), gradient(adj.Checkpoint()), rtol=1e-4, atol=1e-5
    )
    pytest.importorskip("torchdiffeq")
    theirs, ours = (
        gradient(competitors.TorchdiffeqAdjoint("euler", "ends")),
        gradient(adj.Adjoint("solved", adj.Euler())),
    )
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    assert math.isfinite(gradient(competitors.TorchdiffeqAdjoint("midpoint", "all")).norm().item())


def test_diffrax_solves_the_same_ode_of_the_same_network(competitors):
    pytest.importorskip("diffrax")
    from benchmarks.diffrax_adjoints import DiffraxAdjoint

    torch.manual_seed(0)
    network, schedule = FashionNetwork().eval().requires_grad_(False), fashion_schedule()
    weight = network.unet.conv_in.weight.requires_grad_()
    where = next(s for s in Registration().settings() if s.sampler == "ddim" and s.calls == 20)
    noise, table = torch.randn(2, 1, 32, 32), network.classes.weight
    denoiser = adj.Denoiser(network, guidance_scale=5.0, null_cond=table[-1:])

    def gradient(method):
        x, cond = noise.clone().requires_grad_(), table[:2].clone().requires_grad_()
        with adj.stats(memory=False) as counts:
            y = adj.sample(
                denoiser,
                x,
                schedule=schedule,
                cond=cond,
                grid=where.grid(schedule),
                gradient=method,
            )
            found = torch.autograd.grad(y.square().mean(), [x, cond, weight])
        return found, (counts.network_calls, counts.vjps)

    ours, _ = gradient(adj.Checkpoint())
    theirs, counts = gradient(DiffraxAdjoint("checkpoint", checkpoints=20))
    assert counts == (40, 20)
    for a, b in zip(theirs, ours, strict=True):
        assert (a - b).norm() < 1e-3 * b.norm()
    pytest.importorskip("torchdiffeq")
    for outputs in ("all", "ends"):
        theirs, counts = gradient(DiffraxAdjoint("backsolve", "euler", outputs))
        others, same = gradient(competitors.TorchdiffeqAdjoint("euler", outputs))
        assert counts == same == (40, 20)
        for a, b, exact in zip(theirs, others, ours, strict=True):
            assert 10 * (a - b).norm() < (b - exact).norm()  # equal, and not because both are exact


def test_what_jax_does_not_know_is_named(competitors):
    pytest.importorskip("jax")
    from benchmarks.jax_network import to_jax

    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    with pytest.raises(adj.errors.UnsupportedError, match="bessel_j0"):
        to_jax(Odd(), (torch.ones(2),))


@pytest.mark.parametrize(
    "method", [adj.Backprop(), adj.Checkpoint(), adj.Interpolated(8)], ids=repr
)
def test_our_own_methods_around_a_compiled_network_give_the_same(competitors, method):
    torch.manual_seed(0)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)
            )

        def forward(self, x, t, cond):
            return self.layers(torch.cat([x, t[:, None] / 1000], 1)) + cond

    network, schedule = Network().double(), adj.NoiseSchedule.linear()
    noise, cond = torch.randn(2, 2, 3, dtype=torch.float64)
    denoiser = adj.Denoiser(
        network, guidance_scale=3.0, null_cond=torch.zeros(1, 3, dtype=torch.float64)
    )

    def gradient(chosen):
        inputs = noise.clone().requires_grad_(), cond.clone().requires_grad_()
        x = adj.sample(
            denoiser, inputs[0], schedule=schedule, cond=inputs[1], steps=20, gradient=chosen
        )
        return torch.autograd.grad(x.square().sum(), [*inputs, *network.parameters()])

    for a, b in zip(
        gradient(competitors.Compiled(method, "aot_eager")), gradient(method), strict=True
    ):
        torch.testing.assert_close(a, b)
