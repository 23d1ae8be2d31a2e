"""The error estimate of few-VJP gradients is about as large as the true error, and free."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.engine.gradients.few_vjps.error_estimate import ErrorEstimate
from adjointdpm.engine.samplers import Sampler
from benchmarks.gradients.estimates import rank_correlation
from helpers.mixtures import SCHEDULES, Mixture

SAMPLERS = [adj.Euler(), adj.DPMSolverPP(), adj.Heun()]


def compare(
    vjps: int,
    schedule_name: str = "table",
    sampler: Sampler = SAMPLERS[0],
    seed: int = 0,
    batch: int = 64,
    network: nn.Module | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Each sample's estimate and true errors (noise, conditioning) on a guided mixture."""
    torch.manual_seed(seed)
    schedule = SCHEDULES[schedule_name]()
    prediction = (
        "v_prediction"
        if schedule_name == "linear"
        else "flow"
        if schedule_name == "flow"
        else "epsilon"
    )
    network = Mixture(schedule, std=0.6, prediction=prediction) if network is None else network
    noise, cond = torch.randn(2, batch, 3, dtype=torch.float64).unbind()
    denoiser = adj.Denoiser(
        network, prediction, guidance_scale=3.0, null_cond=torch.randn(1, 3, dtype=torch.float64)
    )
    found = []
    with adj.stats() as counts:
        for method in (adj.Checkpoint(), adj.Interpolated(vjps)):
            leaves = [noise.clone().requires_grad_(), cond.clone().requires_grad_()]
            x = adj.sample(
                denoiser,
                leaves[0],
                schedule=schedule,
                cond=leaves[1],
                steps=50,
                sampler=sampler,
                gradient=method,
            )
            found.append(torch.autograd.grad(x.sin().sum(), leaves))
    (estimate,) = counts.error_estimates
    return estimate, [
        (ours - exact).norm(dim=1) / exact.norm(dim=1) for exact, ours in zip(*found, strict=True)
    ]


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("vjps", [5, 10, 20])
def test_the_estimate_is_of_the_size_of_the_error_and_follows_it(sampler, schedule_name, vjps):
    calls_a_step = sampler.calls(50) // 50
    runs = [compare(vjps * calls_a_step, schedule_name, sampler, seed) for seed in range(3)]
    estimate = torch.cat([run[0] for run in runs])
    for i, least in enumerate((0.3, 0.3)):
        error = torch.cat([run[1][i] for run in runs])
        assert 0.1 < (error / estimate).median() < 3
        assert (error / estimate).quantile(0.95) < (20 if schedule_name == "flow" else 5)
        assert rank_correlation(estimate, error) > least


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rough_network_is_seen_to_be_rough(seed):
    """Its Jacobian changes completely from call to call: the estimate has to be large."""

    class Rough(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return x + 0.3 * (10 * (x + cond) @ mixing + t[:, None]).sin()

    mixing = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for vjps in (5, 10, 20):
        estimate, (error, _) = compare(vjps, seed=seed, network=Rough())
        assert error.median() > 0.3
        assert estimate.median() > 0.3


@pytest.mark.parametrize(
    ("trusts", "power"),
    [
        ([None, None, None], 0.5),
        ([None, 0.0, 0.0], 0.5),
        ([None, 1.0, 1.0], 0.0),
        ([None, 0.2, 0.6], 0.3),
    ],
)
def test_jumps_add_up_as_far_as_slopes_foretell_nothing(trusts, power):
    """δ n^((1 − t)/2), by hand."""
    given = iter([None if trust is None else torch.tensor([trust, 0.0]) for trust in trusts])
    estimate = ErrorEstimate(SimpleNamespace(trust=lambda: next(given)))  # pyright: ignore[reportArgumentType]
    corrected = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    for jump in (0.1, 0.2, 0.4):
        estimate.corrected(7, {7: corrected * (1 + jump)}, {7: corrected})
    size = math.sqrt((0.1**2 + 0.2**2 + 0.4**2) / 3)
    expected = [size * 3**power, size * 3**0.5]
    assert estimate.relative(exact=False, like=corrected).tolist() == pytest.approx(
        expected, rel=1e-5
    )


def test_nothing_guessed_is_nothing_missed_and_one_vjp_tells_nothing():
    assert compare(50)[0].tolist() == [0.0] * 64
    assert compare(1)[0].isnan().all()


def test_gaussian_data_are_estimated_to_be_exact():
    network = Mixture(SCHEDULES["table"](), components=1, std=0.5)
    estimate, errors = compare(4, network=network)
    assert max(estimate.max(), errors[0].max()) < 1e-9


def test_samples_are_told_apart_and_every_backward_pass_adds_one():
    torch.manual_seed(0)
    schedule = SCHEDULES["table"]()
    network, noise = Mixture(schedule), torch.randn(6, 3, dtype=torch.float64)

    def solve(noise: Tensor) -> Tensor:
        noise = noise.clone().requires_grad_()
        return (
            adj.sample(network, noise, schedule=schedule, steps=30, gradient=adj.Interpolated(6))
            .sin()
            .sum()
        )

    with adj.stats() as together:
        loss = solve(noise)
        loss.backward(retain_graph=True)
        with adj.stats() as inner:
            loss.backward()
    with adj.stats() as apart:
        for row in noise:
            solve(row[None]).backward()
    assert len(together.error_estimates) == 2
    assert len(inner.error_estimates) == 1
    assert torch.equal(*together.error_estimates)
    assert together.error_estimates[0].shape == (6,)
    torch.testing.assert_close(
        torch.cat(apart.error_estimates), together.error_estimates[0], rtol=1e-9, atol=0.0
    )
    assert len(set(together.error_estimates[0].tolist())) == 6


def test_exact_methods_estimate_nothing():
    schedule = SCHEDULES["table"]()
    noise = torch.randn(2, 3, dtype=torch.float64).requires_grad_()
    with adj.stats() as counts:
        adj.sample(
            Mixture(schedule), noise, schedule=schedule, steps=5, gradient=adj.Checkpoint()
        ).sum().backward()
    assert counts.error_estimates == []


def test_ranks_of_ties_are_shared():
    values = torch.tensor([1.0, 2.0, 2.0, 3.0])
    assert rank_correlation(values, values.exp()) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation(
        torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 3.0])
    ) == pytest.approx(0.5)  # 1 − 6·2/(3·8)
