"""What `stats` counts, against formulas and independent counts."""

import contextlib
import gc

import pytest
import torch
from torch import Tensor

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.samplers import Sampler
from helpers.mixtures import SCHEDULES, Mixture
from helpers.tiny_pipelines import tiny_pipeline

N, M, K = 9, 4, 3
LINEAR = adj.NoiseSchedule.linear()


class CountVJP(torch.autograd.Function):
    """The identity, counting the backward passes through it."""

    seen = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        CountVJP.seen += 1
        return gradient


COUNTS: list[
    tuple[Sampler, GradientMethod, int, int, int]
] = [  # network calls forwards and backwards, VJPs
    (adj.Euler(), adj.Backprop(), N, 0, N),
    (adj.Euler(), adj.Checkpoint(), N, N - 1, N),
    (adj.Euler(), adj.Interpolated(M), N, M - 1, M),
    (adj.Euler(), adj.Truncated(K), N, K - 1, K),
    (adj.Euler(), adj.Adjoint("solved"), N, N, N),
    (adj.Euler(), adj.Adjoint("stored", steps=K), N, K, K),
    (adj.Heun(), adj.Checkpoint(), 2 * N, 2 * N - 1, 2 * N),
    (adj.RungeKutta4(), adj.Backprop(), 4 * N, 0, 4 * N),
    (adj.ReversibleEuler(), adj.Reversible(), 2 * N, 2 * N, 2 * N),
]


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(("sampler", "method", "forwards", "backwards", "vjps"), COUNTS, ids=repr)
def test_calls_and_vjps_are_those_of_the_formulas(
    sampler, method, forwards, backwards, vjps, guidance
):
    torch.manual_seed(0)
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule)
    noise = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    denoiser = adj.Denoiser(
        lambda x, t, c: CountVJP.apply(network(x, t, c)),
        guidance_scale=guidance,
        null_cond=torch.zeros(1, 3).double(),
    )
    grid = adj.grids.log_snr(schedule, N)
    CountVJP.seen = 0
    with adj.stats() as counts:
        cond = torch.ones(2, 3, dtype=torch.float64)
        x = adj.sample(
            denoiser,
            noise,
            schedule=schedule,
            cond=cond,
            grid=grid,
            sampler=sampler,
            gradient=method,
        )
        assert (counts.network_calls, counts.vjps) == (forwards, 0)
        x.sum().backward()
    assert (counts.network_calls, counts.vjps) == (forwards + backwards, vjps)
    assert (network.calls, CountVJP.seen) == (forwards + backwards, vjps)


def test_an_only_conditioned_gradient_costs_no_vjp_where_there_is_nothing_to_differentiate():
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule).requires_grad_(False)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    denoiser = adj.Denoiser(network, guidance_scale=scale, null_cond=torch.zeros(1, 3).double())
    with adj.stats() as counts:
        adj.sample(
            denoiser,
            torch.randn(2, 3).double(),
            schedule=schedule,
            cond=torch.ones(2, 3).double(),
            steps=5,
        ).sum().backward()
    assert counts.vjps == 4  # at x_T the scale acts on the network's output alone


def test_generate_is_counted_whatever_makes_the_picture(tmp_path):
    model = adj.from_pipeline(tiny_pipeline(tmp_path))
    calls = []
    model.pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    for sampler in (None, adj.Euler()):
        calls.clear()
        with adj.stats() as counts:
            pictures = model.generate(
                "a fox", model.noise(1, seed=0), steps=3, guidance_scale=4.0, sampler=sampler
            )
            assert counts.network_calls == len(calls) == 3
            pictures.sum().backward()
        assert counts.network_calls >= 5
        assert counts.vjps == 3
        assert counts.peak_bytes_held > 0


LAYERS = 6


def sigmoids(x: Tensor, t: Tensor, cond: object) -> Tensor:
    """Every layer saves its output, and nothing else."""
    for _ in range(LAYERS):
        x = torch.sigmoid(x)
    return x


@pytest.mark.parametrize(
    ("method", "graphs"),
    [
        (adj.Backprop(), N),
        (adj.Checkpoint(), 1),
        (adj.Adjoint(), 1),
        (adj.Interpolated(M), 1),
        (adj.Truncated(K), 1),
    ],
    ids=repr,
)
def test_the_peak_is_that_of_what_network_graphs_save(method, graphs):
    noise = torch.randn(4, 1000, requires_grad=True)
    latent = noise.numel() * noise.element_size()
    graph = LAYERS * latent
    with adj.stats() as counts:
        for _ in range(3):  # what one solve held is freed when the next one needs it
            adj.sample(sigmoids, noise, schedule=LINEAR, steps=N, gradient=method).sum().backward()
            gc.collect()
            # A few of the network's outputs, which it saves too, may be alive as states of the
            # sampler: latents.
            assert graphs * graph <= counts.peak_bytes_held <= graphs * graph + (M - 1) * latent


def test_a_memory_budget_shows_in_the_peak():
    noise = torch.randn(4, 1000, requires_grad=True)
    graph = LAYERS * noise.numel() * noise.element_size()
    for kept in (2, 5):
        with adj.stats() as counts:
            adj.sample(
                sigmoids, noise, schedule=LINEAR, steps=N, gradient=adj.Checkpoint(kept * graph)
            ).sum().backward()
        assert kept * graph <= counts.peak_bytes_held < (kept + 0.5) * graph


def test_without_memory_the_rest_is_counted_alike(monkeypatch):
    torch.manual_seed(0)
    schedule = SCHEDULES["table"]()
    network, noise = Mixture(schedule), torch.randn(2, 3, dtype=torch.float64).requires_grad_()
    found, looks = [], []
    monkeypatch.setattr(
        adj.Stats,
        "hold",
        lambda counts, tensor, hold=adj.Stats.hold: (looks.append(counts), hold(counts, tensor)),
    )
    for memory in (True, False):
        with adj.stats(memory=memory) as counts:
            adj.sample(
                network, noise, schedule=schedule, steps=6, gradient=adj.Interpolated(3)
            ).sum().backward()
        found.append(counts)
    assert all(counts is found[0] for counts in looks)
    assert [(counts.network_calls, counts.vjps) for counts in found] == [(8, 3), (8, 3)]
    assert torch.equal(found[0].error_estimates[0], found[1].error_estimates[0])
    assert found[0].peak_bytes_held > 0
    assert found[1].peak_bytes_held == 0


@pytest.mark.parametrize("bare", [False, True])
def test_weights_and_what_the_network_is_given_are_not_counted(bare):
    linear = torch.nn.Linear(500, 500, bias=False)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear
            self.register_buffer("fixed", torch.randn(500, 500))

        def forward(self, x, t, cond):
            return self.linear(x) @ self.fixed if not bare else self.linear(x)

    network = Network()
    noise = torch.randn(1, 500, requires_grad=True)
    with adj.stats() as counts:
        adj.sample(
            network.forward if bare else network,
            noise,
            schedule=LINEAR,
            steps=4,
            gradient="backprop",
        ).sum().backward()
    assert counts.vjps == 4
    assert counts.peak_bytes_held <= 4 * noise.numel() * noise.element_size()


def test_nothing_is_held_without_gradients_and_nothing_is_counted_outside():
    network, noise = Mixture(LINEAR), torch.randn(2, 3, dtype=torch.float64)
    with adj.stats() as counts, torch.no_grad():
        adj.sample(network, noise, schedule=LINEAR, steps=5)
    adj.sample(network, noise, schedule=LINEAR, steps=5).sum().backward()
    assert counts == adj.Stats(network_calls=5, vjps=0, peak_bytes_held=0)


def test_blocks_may_be_nested_and_end_with_an_error():
    network, noise = Mixture(LINEAR), torch.randn(2, 3, dtype=torch.float64)
    with adj.stats() as outer:
        adj.sample(network, noise, schedule=LINEAR, steps=2).sum().backward()
        with contextlib.suppress(RuntimeError), adj.stats() as inner:
            adj.sample(network, noise, schedule=LINEAR, steps=3).sum().backward()
            raise RuntimeError
        adj.sample(network, noise, schedule=LINEAR, steps=4)
    assert (inner.network_calls, inner.vjps) == (5, 3)
    assert (outer.network_calls, outer.vjps) == (12, 5)


@pytest.mark.parametrize(
    "method", [adj.Checkpoint(), adj.Backprop(), adj.Interpolated(3), adj.Adjoint()], ids=repr
)
@pytest.mark.filterwarnings(
    "ignore::adjointdpm.errors.AdjointDPMWarning"
)  # an adjoint of a network with dropout
def test_counting_changes_no_gradient(method):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(6, 32), torch.nn.SiLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 6)
    )
    noise = torch.randn(4, 6, requires_grad=True)

    def gradients() -> tuple[Tensor, ...]:
        torch.manual_seed(1)
        x = adj.sample(lambda x, t, c: network(x), noise, schedule=LINEAR, steps=5, gradient=method)
        return torch.autograd.grad(x.square().sum(), [noise, *network.parameters()])

    plain = gradients()
    with adj.stats():
        counted = gradients()
    assert all(torch.equal(a, b) for a, b in zip(plain, counted, strict=True))


def test_hooks_around_the_solve_still_see_what_the_network_saves():
    noise, seen = torch.randn(4, 10, requires_grad=True), []

    def pack(tensor: Tensor) -> Tensor:
        seen.append(tensor.shape)
        return tensor.detach()

    with adj.stats(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        adj.sample(sigmoids, noise, schedule=LINEAR, steps=2, gradient="backprop").sum().backward()
    assert len(seen) == 2 * LAYERS
