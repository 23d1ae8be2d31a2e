"""Noise schedules and grids."""

from typing import cast

import diffusers
import pytest
import torch

import adjointdpm as adj
from adjointdpm.engine.grids import check_grid
from adjointdpm.engine.schedules import FlowMatchingSchedule
from helpers.mixtures import SCHEDULES


@pytest.mark.parametrize(
    "make",
    [*SCHEDULES.values(), adj.NoiseSchedule.cosine],
    ids=lambda make: getattr(make, "__name__", "table"),
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_time_inverts_rho_and_coefficients_agree(make, seed):
    schedule = make()
    generator = torch.Generator().manual_seed(seed)
    inside = torch.rand(50, dtype=torch.float64, generator=generator) * 0.98 + 0.01
    t = schedule.t_min + inside * (schedule.t_max - schedule.t_min)
    assert torch.allclose(schedule.time(schedule.rho(t)), t, rtol=1e-9, atol=1e-9)
    assert torch.allclose(schedule.sigma(t) / schedule.alpha(t), schedule.rho(t), rtol=1e-9)
    rates = schedule.derivatives(t)
    h = 1e-6 * (schedule.t_max - schedule.t_min)
    inner = (t / h).floor() * h + 0.37 * h if schedule.t_max > 100 else t  # off the table's kinks
    for function, rate in zip(
        (schedule.alpha, schedule.sigma), schedule.derivatives(inner), strict=True
    ):
        difference = (function(inner + h / 10) - function(inner - h / 10)) / (h / 5)
        assert torch.allclose(rate, difference, rtol=1e-3, atol=1e-4 * rate.abs().max().item())
    assert rates[0].shape == t.shape


def test_table_keeps_its_entries_and_interpolates_log_rho():
    table = torch.tensor([0.99, 0.7, 0.2, 0.01], dtype=torch.float64)
    schedule = adj.NoiseSchedule.from_alphas_cumprod(table)
    index = torch.arange(4, dtype=torch.float64)
    assert torch.allclose(schedule.alpha(index) ** 2, table, rtol=1e-12)
    assert torch.allclose(schedule.sigma(index) ** 2, 1 - table, rtol=1e-12)
    log_rho = schedule.rho(index).log()
    assert torch.allclose(
        schedule.rho(index[:-1] + 0.25).log(), 0.75 * log_rho[:-1] + 0.25 * log_rho[1:]
    )


def test_schedulers_are_read():
    stable_diffusion = diffusers.DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    schedule = adj.NoiseSchedule.from_scheduler(stable_diffusion)
    index = torch.tensor([0.0, 500.0, 999.0], dtype=torch.float64)
    assert torch.allclose(
        schedule.alpha(index) ** 2,
        stable_diffusion.alphas_cumprod[index.long()].double(),
        rtol=1e-6,
    )
    flow = adj.NoiseSchedule.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert torch.allclose(
        adj.grids.linspace(flow, 2), torch.tensor([1.0, 0.75, 0.0], dtype=torch.float64)
    )
    edm = adj.NoiseSchedule.from_scheduler(
        diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=40.0)
    )
    assert (edm.t_min, edm.t_max, edm.initial_scale) == (0.01, 40.0, 40.0)
    with pytest.raises(adj.errors.ScheduleError, match="object"):
        adj.NoiseSchedule.from_scheduler(object())


def test_options_that_only_another_schedulers_class_reads_do_not_count():
    """`from_config` carries them over."""
    flow = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    assert isinstance(adj.NoiseSchedule.from_scheduler(flow), FlowMatchingSchedule)
    for config in (flow.config, diffusers.EDMEulerScheduler().config):
        ddim = cast(diffusers.DDIMScheduler, diffusers.DDIMScheduler.from_config(config))
        schedule = adj.NoiseSchedule.from_scheduler(ddim)
        assert schedule.alpha(torch.tensor(999.0, dtype=torch.float64)) ** 2 == pytest.approx(
            ddim.alphas_cumprod[-1].item()
        )
    config = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config
    for own, shift in ({}, 1.0), ({"flow_shift": 2.0}, 2.0):
        solver = diffusers.DPMSolverMultistepScheduler.from_config(
            {**config, "use_flow_sigmas": True, **own}
        )
        schedule = adj.NoiseSchedule.from_scheduler(solver)
        assert isinstance(schedule, FlowMatchingSchedule)
        assert schedule.shift == shift


def test_a_subclass_that_hands_its_options_on_is_read_as_its_base():
    class MyFlowMatch(diffusers.FlowMatchEulerDiscreteScheduler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    schedule = adj.NoiseSchedule.from_scheduler(MyFlowMatch(shift=3.0))
    assert isinstance(schedule, FlowMatchingSchedule)
    assert schedule.shift == 3.0


@pytest.mark.parametrize(
    "table",
    [
        [0.5],
        [0.9, 0.9],
        [0.5, 0.9],
        [1.2, 0.5],
        [0.5, -0.1],
        [0.9, float("nan")],
        [[0.9, 0.5]],
        [0.9, 0.0],
    ],
)
def test_impossible_tables_are_refused(table):
    with pytest.raises(adj.errors.ScheduleError):
        adj.NoiseSchedule.from_alphas_cumprod(torch.tensor(table))


@pytest.mark.parametrize(
    "make",
    [
        lambda: adj.NoiseSchedule.from_alphas_cumprod("table"),  # type: ignore[arg-type]
        lambda: adj.NoiseSchedule.from_alphas_cumprod(None),  # type: ignore[arg-type]
        lambda: adj.NoiseSchedule.from_alphas_cumprod(torch.tensor([0.9 + 0.1j, 0.5])),
        lambda: adj.NoiseSchedule.from_alphas_cumprod(torch.tensor([True, False])),
        lambda: adj.NoiseSchedule.edm("0.1", "2"),  # type: ignore[arg-type]
        lambda: adj.NoiseSchedule.linear("0.1"),  # type: ignore[arg-type]
        lambda: adj.NoiseSchedule.cosine(None),  # type: ignore[arg-type]
        lambda: adj.NoiseSchedule.flow_matching(True),
        lambda: adj.grids.karras(adj.NoiseSchedule.linear(), 5, rho="7"),  # type: ignore[arg-type]
        *(
            lambda make=make: make("linear", 5)
            for make in (adj.grids.karras, adj.grids.log_snr, adj.grids.linspace)
        ),  # type: ignore[misc]
        *(lambda make=make: make("linear", 5) for make in (adj.grids.leading, adj.grids.trailing)),  # type: ignore[misc]
    ],
)
def test_what_is_no_number_or_no_schedule_is_refused(make):
    with pytest.raises(adj.errors.InvalidTypeError):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: adj.NoiseSchedule.linear(0.0, 20.0),
        lambda: adj.NoiseSchedule.linear(5.0, 1.0),
        lambda: adj.NoiseSchedule.edm(2.0, 1.0),
        lambda: adj.NoiseSchedule.edm(-1.0, 1.0),
        lambda: adj.NoiseSchedule.flow_matching(0.0),
        lambda: adj.NoiseSchedule.cosine(-1.0),
    ],
)
def test_impossible_schedules_are_refused(make):
    with pytest.raises(adj.errors.ScheduleError):
        make()


@pytest.mark.parametrize(
    "make",
    [
        adj.grids.karras,
        adj.grids.log_snr,
        adj.grids.linspace,
        adj.grids.leading,
        adj.grids.trailing,
    ],
)
@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 50])
def test_grids_run_from_noise_to_the_schedules_end(make, schedule_name, steps):
    schedule = SCHEDULES[schedule_name]()
    if make is adj.grids.log_snr and schedule_name == "flow":
        with pytest.raises(adj.errors.ScheduleError, match="infinite"):
            make(schedule, steps)
        return
    grid = make(schedule, steps)
    assert grid.dtype == torch.float64
    assert grid.shape == (steps + 1,)
    assert bool((grid.diff() < 0).all())
    assert grid[-1].item() == schedule.t_min
    if make is not adj.grids.leading or schedule_name != "table":
        assert grid[0].item() == schedule.t_max


def test_karras_is_the_published_formula_on_the_edm_schedule():
    low, high, steps = 0.002, 80.0, 18
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    published = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    assert torch.allclose(adj.grids.karras(adj.NoiseSchedule.edm(low, high), steps - 1), published)


@pytest.mark.parametrize(
    ("grid", "error"),
    [
        (torch.tensor([1.0]), adj.errors.GridError),
        (torch.tensor([[1.0, 0.5]]), adj.errors.GridError),
        (torch.tensor([0.5, 0.5]), adj.errors.GridError),
        (torch.tensor([0.2, 0.5]), adj.errors.GridError),
        (torch.tensor([1.5, 0.5]), adj.errors.GridError),
        (torch.tensor([0.5, -0.5]), adj.errors.GridError),
        (torch.tensor([float("nan"), 0.5]), adj.errors.GridError),
        ([1.0, 0.5], adj.errors.InvalidTypeError),
        (torch.tensor([True, False]), adj.errors.InvalidTypeError),
    ],
)
def test_impossible_grids_are_refused(grid, error):
    with pytest.raises(error):
        check_grid(grid, adj.NoiseSchedule.linear())
