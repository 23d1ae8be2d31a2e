"""The few-VJP transpose: exact with a VJP at every call, close with few, and few they are."""

import random

import pytest
import torch

import adjointdpm as adj
from adjointdpm.engine.gradients.few_vjps.node_placement import choose_nodes
from helpers.mixtures import SCHEDULES, Mixture, relative_error

SAMPLERS = [
    adj.Euler(),
    adj.Heun(),
    adj.Midpoint(),
    adj.RungeKutta4(),
    adj.AdamsBashforth(3),
    adj.DPMSolverPP(),
    adj.Ancestral(eta=1.0, seed=3),
]


def gradients(
    method,
    sampler=SAMPLERS[0],
    schedule_name="table",
    steps=12,
    dtype=torch.float64,
    seed=0,
    batch=4,
):
    """Gradients for the noise, both conditionings and a weight, of a guided mixture."""
    torch.manual_seed(seed)
    schedule = SCHEDULES[schedule_name]()
    prediction = (
        "v_prediction"
        if schedule_name == "linear"
        else "flow"
        if schedule_name == "flow"
        else "epsilon"
    )
    network = Mixture(schedule, std=0.8, prediction=prediction).to(dtype)
    noise, cond = torch.randn(2, batch, 3, dtype=dtype).unbind()
    null = torch.randn(1, 3, dtype=dtype)
    leaves = [tensor.requires_grad_() for tensor in (noise, cond, null)]
    denoiser = adj.Denoiser(network, prediction, guidance_scale=1.5, null_cond=null)
    x = adj.sample(
        denoiser, noise, schedule=schedule, cond=cond, steps=steps, sampler=sampler, gradient=method
    )
    calls = network.calls
    found = torch.autograd.grad(x.sin().sum(), [*leaves, network.means])
    return found, (calls, network.calls - calls)


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_with_a_vjp_at_every_call_it_is_exact(sampler, schedule_name, dtype, tolerance):
    exact, _ = gradients(adj.Backprop(), sampler, schedule_name, dtype=dtype)
    for vjps in (sampler.calls(12), 10_000):
        ours, _ = gradients(adj.Interpolated(vjps), sampler, schedule_name, dtype=dtype)
        # With all noise drawn anew the start does not matter, and its gradient is rounding alone:
        # small beside the others' is enough.
        least = 1e-6 * max(b.norm() for b in exact)
        for a, b in zip(ours, exact, strict=True):
            assert (a - b).norm() <= tolerance * max(b.norm(), least)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "sampler", [adj.Euler(), adj.DPMSolverPP(), adj.AdamsBashforth(2)], ids=repr
)
def test_it_approaches_exact_with_more_vjps(sampler, seed):
    exact, _ = gradients(adj.Checkpoint(), sampler, steps=50, seed=seed, batch=16)
    errors = []
    for vjps in (5, 10, 20, 40):
        ours, _ = gradients(adj.Interpolated(vjps), sampler, steps=50, seed=seed, batch=16)
        errors.append([relative_error(a, b) for a, b in zip(ours, exact, strict=True)])
    # noise, conditioning, unconditional conditioning, weights
    assert all(later < earlier for later, earlier in zip(errors[3], errors[0], strict=True))
    assert max(errors[2]) < 0.1
    assert max(errors[3]) < 0.02


@pytest.mark.parametrize("schedule_name", ["table", "linear", "edm"])
def test_gaussian_data_need_two_vjps(schedule_name):
    """For one Gaussian with mean θ both the Jacobian and the terms are as modelled."""
    torch.manual_seed(0)
    schedule = SCHEDULES[schedule_name]()
    network = Mixture(schedule, components=1, std=0.5)
    found = []
    for sampler in (adj.Euler(), adj.DPMSolverPP(), adj.AdamsBashforth(2)):
        for method in (adj.Backprop(), adj.Interpolated(2)):
            noise, cond = (
                torch.randn(
                    4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i)
                ).requires_grad_()
                for i in (1, 2)
            )
            x = adj.sample(
                network,
                noise,
                schedule=schedule,
                cond=cond,
                steps=50,
                sampler=sampler,
                gradient=method,
            )
            found.append(torch.autograd.grad(x.sin().sum(), [noise, cond, network.means]))
    for exact, ours in zip(found[::2], found[1::2], strict=True):
        for a, b in zip(ours, exact, strict=True):
            assert relative_error(a, b) < 0.01


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_however_few_vjps_there_are_it_gives_numbers(sampler, steps):
    for schedule_name in SCHEDULES:
        try:
            gradients(adj.Backprop(), sampler, schedule_name, steps=steps)
        except adj.errors.ScheduleError:  # a Runge–Kutta step all the way from ρ = ∞
            continue
        for vjps in (1, 2, 3):
            found, _ = gradients(adj.Interpolated(vjps), sampler, schedule_name, steps=steps)
            assert all(gradient.isfinite().all() for gradient in found)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("grid", "bounds"), [(adj.grids.karras, (5.0, 0.4)), (adj.grids.linspace, (1.0, 0.1))]
)
def test_flow_matching_starts_without_signal_and_few_vjps_do(seed, grid, bounds):
    """ρ falls from infinity: the first call that is known must not be carried there unchanged."""
    schedule = SCHEDULES["flow"]()
    torch.manual_seed(seed)
    denoiser = adj.Denoiser(Mixture(schedule, prediction="flow"), "flow")
    noise, cond = torch.randn(2, 6, 3, dtype=torch.float64).unbind()
    found = []
    for method in (adj.Checkpoint(), adj.Interpolated(3), adj.Interpolated(10)):
        leaves = [noise.clone().requires_grad_(), cond.clone().requires_grad_()]
        x = adj.sample(
            denoiser,
            leaves[0],
            schedule=schedule,
            cond=leaves[1],
            grid=grid(schedule, 30),
            gradient=method,
        )
        found.append(torch.autograd.grad(x.sin().sum(), leaves))
    for ours, bound in zip(found[1:], bounds, strict=True):
        assert all(relative_error(a, b) < bound for a, b in zip(ours, found[0], strict=True))


@pytest.mark.parametrize(
    ("sampler", "vjps"), [(adj.Euler(), 10), (adj.DPMSolverPP(), 10), (adj.Heun(), 20)], ids=repr
)
def test_flow_matching_between_modes_does_not_blow_up(sampler, vjps):
    """Sharp modes with guidance: J is negative between two modes, where j cannot be determined."""
    schedule, errors = SCHEDULES["flow"](), []
    for seed in range(4):
        torch.manual_seed(seed)
        denoiser = adj.Denoiser(
            Mixture(schedule, 16, 6, 0.3, "flow"),
            "flow",
            guidance_scale=3.0,
            null_cond=torch.randn(1, 16).double(),
        )
        noise, cond = torch.randn(2, 24, 16, dtype=torch.float64).unbind()
        found = []
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
        errors.append(
            torch.stack(
                [
                    (a - b).norm(dim=1) / b.norm(dim=1)
                    for a, b in zip(found[1], found[0], strict=True)
                ]
            )
        )
    assert torch.cat(errors, 1).quantile(0.95, dim=1).max() < 3


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("schedule_name", SCHEDULES)
def test_where_next_to_no_noise_is_left_conditioning_says_next_to_nothing(schedule_name, seed):
    """On the default grid 1 − j is 0 in float64 near the data, while the terms there are not."""
    exact, _ = gradients(
        adj.Checkpoint(), schedule_name=schedule_name, steps=50, seed=seed, batch=16
    )
    ours, _ = gradients(
        adj.Interpolated(5), schedule_name=schedule_name, steps=50, seed=seed, batch=16
    )
    assert all(relative_error(a, b) < 1 for a, b in zip(ours, exact, strict=True))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("sampler", [adj.Heun(), adj.Midpoint()], ids=repr)
def test_a_noisy_nodes_terms_are_not_carried_undiminished_to_the_data(sampler, seed):
    """A second stage known at the noisy end alone: towards the data its terms shrink as 1 − j."""
    exact, _ = gradients(adj.Checkpoint(), sampler, "flow", steps=50, seed=seed)
    ours, _ = gradients(adj.Interpolated(5), sampler, "flow", steps=50, seed=seed)
    assert all(relative_error(a, b) < 3 for a, b in zip(ours[1:], exact[1:], strict=True))


def test_a_term_that_vanishes_at_a_node_does_not_take_the_others_along():
    """Conditioning that is looked at early only: its gradient at the last node is exactly zero."""
    schedule = SCHEDULES["linear"]()
    noise, cond = torch.randn(
        2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).unbind()
    cond.requires_grad_()
    network = Mixture(schedule, prediction="v_prediction")
    early = adj.Denoiser(lambda x, t, c: network(x, t, c * (t > 0.5)[:, None]), "v_prediction")
    found = []
    for method in (adj.Backprop(), adj.Interpolated(10)):
        x = adj.sample(early, noise, schedule=schedule, cond=cond, steps=40, gradient=method)
        found.append(torch.autograd.grad(x.sin().sum(), cond)[0])
    assert relative_error(found[1], found[0]) < 0.3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_half_precision_costates_do_not_leave_its_range(dtype, seed):
    """Gradients that half precision can hold, but whose squares it cannot."""
    torch.manual_seed(seed)
    schedule = SCHEDULES["linear"]()
    noise = (
        torch.randn(4, 16, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    )
    network = torch.nn.Linear(16, 16).to(dtype).requires_grad_(False)
    found = []
    for size in (1e-4, 1.0, 10.0):
        x = adj.sample(
            lambda x, t, c: network(x),
            noise,
            schedule=schedule,
            steps=12,
            gradient=adj.Interpolated(4),
        )
        found.append(torch.autograd.grad((size * x.float()).sum(), noise)[0].double() / size)
    assert relative_error(found[0], found[1]) < 0.05
    assert relative_error(found[2], found[1]) < 0.05


@pytest.mark.parametrize(
    ("sampler", "vjps", "asked"),
    [(adj.Euler(), 4, 4), (adj.Euler(), 1, 1), (adj.Heun(), 5, 4), (adj.Heun(), 1, 2)],
)
def test_the_network_is_asked_as_often_as_stated(sampler, vjps, asked):
    _, (forward, backward) = gradients(adj.Interpolated(vjps), sampler)
    assert forward == sampler.calls(12)
    assert backward == asked - 1  # the last call's graph is kept


def test_nodes_are_distinct_and_include_both_ends():
    rng = random.Random(0)
    for _ in range(50):
        positions = sorted(rng.uniform(-5, 5) ** 3 for _ in range(rng.randint(2, 60)))
        for count in range(2, len(positions) + 1):
            nodes = choose_nodes(positions, count)
            assert len(set(nodes)) == count
            assert nodes == sorted(nodes)
            assert (nodes[0], nodes[-1]) == (0, len(positions) - 1)


def test_dropout_holds_in_the_recomputation():
    network = torch.nn.Sequential(
        torch.nn.Linear(6, 32), torch.nn.SiLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 6)
    )
    noise = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = []
    for method in (adj.Backprop(), adj.Interpolated(5)):
        torch.manual_seed(1)
        x = adj.sample(
            lambda x, t, c: network(x),
            noise,
            schedule=SCHEDULES["linear"](),
            steps=5,
            gradient=method,
        )
        torch.manual_seed(2)
        found.append(torch.autograd.grad(x.square().sum(), [noise, *network.parameters()]))
    for exact, ours in zip(*found, strict=True):
        assert relative_error(ours, exact) < 1e-6


@pytest.mark.parametrize("vjps", [0, -1, 2.0, True, None])
def test_bad_numbers_of_vjps(vjps):
    with pytest.raises(adj.errors.InvalidInputError, match="at least 1"):
        adj.Interpolated(vjps)


def test_gradients_for_the_grid_are_refused():
    schedule = SCHEDULES["linear"]()
    grid = adj.grids.karras(schedule, 4).requires_grad_()
    with pytest.raises(adj.errors.UnsupportedError, match="grid"):
        adj.sample(
            Mixture(schedule),
            torch.randn(1, 3).double(),
            schedule=schedule,
            grid=grid,
            gradient=adj.Interpolated(2),
        )
