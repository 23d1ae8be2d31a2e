"""The reversible sampler and its gradient: exact where the way back is stable, else an error."""

import pytest
import torch

import adjointdpm as adj
from adjointdpm.engine.samplers import Sampler
from helpers.mixtures import SCHEDULES, Mixture, relative_error


def gradients(
    method,
    schedule_name="table",
    steps=20,
    dtype=torch.float64,
    seed=0,
    coupling=0.95,
    guidance=3.0,
):
    torch.manual_seed(seed)
    schedule = SCHEDULES[schedule_name]()
    network = Mixture(schedule).to(dtype)
    noise, cond = (tensor.requires_grad_() for tensor in torch.randn(2, 4, 3, dtype=dtype).unbind())
    null = torch.zeros(1, 3, dtype=dtype, requires_grad=True)
    denoiser = adj.Denoiser(network, guidance_scale=guidance, null_cond=null)
    grid = adj.grids.log_snr(schedule, steps)
    x = adj.sample(
        denoiser,
        noise,
        schedule=schedule,
        cond=cond,
        grid=grid,
        sampler=adj.ReversibleEuler(coupling),
        gradient=method,
    )
    calls = network.calls
    found = torch.autograd.grad(x.sin().sum(), [noise, cond, null, network.means])
    return x, found, (calls, network.calls - calls)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("guidance", [1.5, 5.0])
@pytest.mark.parametrize("schedule_name", ["table", "linear", "edm"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_it_is_exact_with_every_step_run_backwards(dtype, tolerance, schedule_name, guidance, seed):
    _, exact, _ = gradients(adj.Backprop(), schedule_name, 50, dtype, seed, guidance=guidance)
    _, ours, calls = gradients(adj.Reversible(), schedule_name, 50, dtype, seed, guidance=guidance)
    assert calls == (100, 100)
    for a, b in zip(ours, exact, strict=True):
        assert relative_error(a, b) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("schedule_name", ["table", "linear"])
def test_the_sampler_converges_with_order_one_behind_euler(schedule_name):
    schedule = SCHEDULES[schedule_name]()

    def error(sampler: Sampler, steps: int) -> float:
        grid, fine = adj.grids.log_snr(schedule, steps), adj.grids.log_snr(schedule, 2000)
        reference = adj.sample(*_plain(schedule), schedule=schedule, grid=fine, sampler=adj.Heun())
        return relative_error(
            adj.sample(*_plain(schedule), schedule=schedule, grid=grid, sampler=sampler), reference
        )

    coarse, fine = (error(adj.ReversibleEuler(), steps) for steps in (200, 400))
    assert coarse / fine > 1.8
    for steps in (50, 200):
        assert error(adj.ReversibleEuler(), steps) < 4 * error(adj.Euler(), steps)


def _plain(schedule):
    torch.manual_seed(0)
    return Mixture(schedule).requires_grad_(False), torch.randn(4, 3, dtype=torch.float64)


@pytest.mark.parametrize("coupling", [0.3, 0.5])
def test_a_way_back_that_loses_the_way_is_an_error(coupling):
    with pytest.raises(adj.errors.ReversalError, match="log_snr"):
        gradients(adj.Reversible(), steps=50, dtype=torch.float32, coupling=coupling)


def test_other_samplers_and_grids_are_refused():
    schedule = SCHEDULES["table"]()
    network, noise = _plain(schedule)
    with pytest.raises(adj.errors.UnsupportedError, match="ReversibleEuler"):
        adj.sample(network, noise, schedule=schedule, steps=4, gradient=adj.Reversible())
    grid = adj.grids.log_snr(schedule, 4).requires_grad_()
    with pytest.raises(adj.errors.UnsupportedError, match="grid"):
        adj.sample(
            network,
            noise,
            schedule=schedule,
            grid=grid,
            sampler="reversible_euler",
            gradient="reversible",
        )
    flow = SCHEDULES["flow"]()
    denoiser = adj.Denoiser(Mixture(flow, prediction="flow"), "flow")
    with pytest.raises(adj.errors.ScheduleError, match="no signal"):
        adj.sample(denoiser, noise, schedule=flow, steps=4, sampler=adj.ReversibleEuler())


@pytest.mark.parametrize("coupling", [0, 1, 1.5, "near", True])
def test_bad_couplings(coupling):
    with pytest.raises(adj.errors.InvalidInputError, match="coupling"):
        adj.ReversibleEuler(coupling)
