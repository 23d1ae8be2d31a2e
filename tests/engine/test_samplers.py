"""Samplers against diffusers' schedulers, closed forms, and their orders of convergence."""

import math

import diffusers
import pytest
import torch

import adjointdpm as adj
from adjointdpm.engine.samplers import SAMPLERS, Sampler, resolve
from helpers.mixtures import SCHEDULES, Mixture, relative_error

STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def graded(schedule: adj.NoiseSchedule, steps: int, order: int) -> torch.Tensor:
    """Uniform in log ρ, with shrinking intervals at both ends.

    The adjoint starts at the clean end. The steps of a start-up have lower order; with short
    intervals their errors are of the method's order.
    """
    ends = schedule.rho(torch.tensor([0.6, 0.05], dtype=torch.float64)).log()
    length = (ends[1] - ends[0]).item()
    start = [0.0]
    for k in range(1, order):
        # Order k has a local error of O(h^(k+1)): steps of h^(order/(k+1)) make that O(h^order).
        start.append(start[-1] + length / 4 * steps ** -(order / (k + 1)))
    middle = torch.linspace(start[-1], length - start[-1], steps + 1, dtype=torch.float64)
    first = torch.tensor(start[:-1], dtype=torch.float64)
    return schedule.time((ends[0] + torch.cat([first, middle, (length - first).flip(0)])).exp())


def errors_of(
    sampler: Sampler, gradient: adj.Adjoint | adj.Checkpoint, sizes: list[int]
) -> tuple[list[float], list[float]]:
    torch.manual_seed(0)
    schedule = SCHEDULES["linear"]()
    network = Mixture(schedule, std=1.0)
    noise = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    order = sampler.order if isinstance(sampler, adj.AdamsBashforth) else 1

    def solve(
        steps: int, sampler: Sampler, gradient: adj.Adjoint | adj.Checkpoint, order: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = adj.sample(
            network,
            noise,
            schedule=schedule,
            grid=graded(schedule, steps, order),
            sampler=sampler,
            gradient=gradient,
        )
        return x.detach(), torch.autograd.grad(x.sin().sum(), noise)[0]

    reference = solve(256, adj.RungeKutta4(), adj.Checkpoint(), 1)
    found = [solve(steps, sampler, gradient, order) for steps in sizes]
    return tuple([relative_error(f[i], reference[i]) for f in found] for i in (0, 1))  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "order", "sizes"),
    [
        (adj.Euler(), 1, [32, 64]),
        (adj.Heun(), 2, [24, 48]),
        (adj.Midpoint(), 2, [24, 48]),
        (adj.RungeKutta4(), 4, [12, 24]),
        (adj.AdamsBashforth(1), 1, [32, 64]),
        (adj.AdamsBashforth(2), 2, [32, 64]),
        (adj.AdamsBashforth(3), 3, [32, 64]),
        (adj.AdamsBashforth(4), 4, [48, 96]),
        (adj.DPMSolverPP(), 2, [32, 64]),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "gradient", [adj.Checkpoint(), adj.Adjoint("solved"), adj.Adjoint("stored")], ids=repr
)
def test_sample_and_gradient_converge_with_the_order_of_the_method(sampler, order, sizes, gradient):
    if isinstance(gradient, adj.Adjoint) and sampler.integrator is None:
        gradient = adj.Adjoint(gradient.states, sampler=adj.Heun())
    for errors in errors_of(sampler, gradient, sizes):
        observed = math.log2(errors[0] / errors[1])
        assert order - 0.35 < observed < order + 1.2, (errors, observed)


@pytest.mark.parametrize(
    "sampler", [factory() for factory in SAMPLERS.values()] + [adj.AdamsBashforth(4)], ids=repr
)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_network_calls_are_as_announced(sampler, steps):
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule)
    noise = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    x = adj.sample(network, noise, schedule=schedule, steps=steps, sampler=sampler)
    assert network.calls == sampler.calls(steps)
    x.sum().backward()
    assert network.calls == 2 * sampler.calls(steps) - 1  # the last graph is kept


def epsilon_model(seed: int = 0):
    """A smooth epsilon that depends on the state and on time."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 4, generator=generator, dtype=torch.float64) / 2

    def model(x: torch.Tensor, t: torch.Tensor, cond: object = None) -> torch.Tensor:
        return torch.tanh(torch.einsum("ij,bjhw->bihw", weight.to(x.dtype), x)) * (
            1 + t.to(x.dtype)[:, None, None, None] / 1000
        )

    return model


def run_scheduler(scheduler, model, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """The states after every step, stacked."""
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else noise
    states = []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.expand(len(x)), None), t, x).prev_sample
        states.append(x)
    return torch.stack(states)


def trajectory(denoiser, noise: torch.Tensor, **options) -> torch.Tensor:
    """The states after every step of `sample`, stacked."""
    states: list[torch.Tensor] = []
    x = adj.sample(
        denoiser, noise, callback=lambda step, t, x, denoised: states.append(x), **options
    )
    assert states[-1] is x
    return torch.stack(states)


def assert_same_trajectory(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    for a, b in zip(ours, theirs, strict=True):
        assert relative_error(a, b) < tolerance


# With "linspace" DDIM steps from t to t - T/N and goes on from another time: no trajectory for a
# grid to reproduce.
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_euler_equals_ddim(spacing, prediction, steps):
    noise = torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scheduler = diffusers.DDIMScheduler(
        **STABLE_DIFFUSION,
        set_alpha_to_one=False,
        clip_sample=False,
        timestep_spacing=spacing,
        prediction_type=prediction,
    )
    model = epsilon_model()
    expected = run_scheduler(scheduler, model, noise, steps)
    grid = torch.cat([scheduler.timesteps.double(), torch.zeros(1, dtype=torch.float64)])
    schedule = adj.NoiseSchedule.from_scheduler(scheduler)
    assert_same_trajectory(
        trajectory(adj.Denoiser(model, prediction), noise, schedule=schedule, grid=grid),
        expected,
        1e-5,
    )


@pytest.mark.parametrize(
    ("spacing", "make"), [("leading", adj.grids.leading), ("trailing", adj.grids.trailing)]
)
@pytest.mark.parametrize("steps", [1, 5, 30, 50])
def test_named_grids_are_those_of_ddim(spacing, make, steps):
    scheduler = diffusers.DDIMScheduler(
        **STABLE_DIFFUSION, set_alpha_to_one=False, timestep_spacing=spacing
    )
    scheduler.set_timesteps(steps)
    schedule = adj.NoiseSchedule.from_scheduler(scheduler)
    assert make(schedule, steps).tolist() == [*scheduler.timesteps.tolist(), 0]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [2, 10, 14, 15, 25])
def test_dpm_solver_pp_equals_diffusers(spacing, prediction, steps):
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **STABLE_DIFFUSION,
        timestep_spacing=spacing,
        prediction_type=prediction,
        final_sigmas_type="sigma_min",
    )
    model = epsilon_model()
    expected = run_scheduler(scheduler, model, noise, steps)
    grid = torch.cat([scheduler.timesteps.double(), torch.zeros(1, dtype=torch.float64)])
    schedule = adj.NoiseSchedule.from_scheduler(scheduler)
    ours = trajectory(
        adj.Denoiser(model, prediction),
        noise,
        schedule=schedule,
        grid=grid,
        sampler=adj.DPMSolverPP(),
    )
    # Its sigmas are float32, and it steps in float32.
    assert_same_trajectory(ours, expected, 2e-4)
    if spacing == "linspace":
        assert adj.grids.linspace(schedule, steps).tolist() == grid.tolist()


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_euler_on_flow_matching_equals_diffusers(shift, steps):
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    model = epsilon_model()
    expected = run_scheduler(scheduler, lambda x, t, c: model(x, t / 1000), noise, steps)
    schedule = adj.NoiseSchedule.from_scheduler(scheduler)
    ours = trajectory(
        adj.Denoiser(model, "flow"), noise, schedule=schedule, grid=scheduler.sigmas.double()
    )
    assert_same_trajectory(ours, expected, 1e-4)


def test_euler_equals_diffusers_euler_in_the_variance_exploding_state():
    noise = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))
    schedule = adj.NoiseSchedule.edm(0.01, 20.0)
    grid = adj.grids.karras(schedule, 12)
    model = epsilon_model()
    x = 20.0 * noise
    for now, then in zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True):
        x = x + (then - now) * model(x, torch.full((2,), now))
    assert relative_error(adj.sample(model, noise, schedule=schedule, grid=grid), x) < 1e-4


def test_ancestral_at_full_eta_equals_stochastic_ddim():
    noise = torch.randn(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    scheduler = diffusers.DDIMScheduler(
        **STABLE_DIFFUSION, set_alpha_to_one=False, clip_sample=False
    )
    scheduler.set_timesteps(10)
    schedule, model, sampler = (
        adj.NoiseSchedule.from_scheduler(scheduler),
        epsilon_model(),
        adj.Ancestral(eta=0.7, seed=5),
    )
    x = noise
    for k, t in enumerate(scheduler.timesteps):
        x = scheduler.step(
            model(x, t.expand(2)), t, x, eta=0.7, variance_noise=sampler.draw(k, noise)
        ).prev_sample
    ours = adj.sample(
        model, noise, schedule=schedule, grid=adj.grids.leading(schedule, 10), sampler=sampler
    )
    assert relative_error(ours, x) < 1e-5


def test_ancestral_noise_belongs_to_the_sample_and_not_to_the_batch():
    schedule, model, sampler = SCHEDULES["table"](), epsilon_model(), adj.Ancestral(seed=9)
    noise = torch.randn(3, 4, 4, 4)
    whole = adj.sample(model, noise, schedule=schedule, steps=5, sampler=sampler)
    alone = adj.sample(model, noise[:1], schedule=schedule, steps=5, sampler=sampler)
    other = adj.sample(model, noise, schedule=schedule, steps=5, sampler=adj.Ancestral(seed=8))
    assert relative_error(alone, whole[:1]) < 1e-5
    assert relative_error(other, whole) > 0.1


def test_ancestral_noise_belongs_to_the_sample_s_number():
    like = torch.empty(3, 4, 4)
    plain, numbered = adj.Ancestral(seed=9), adj.Ancestral(seed=9).for_samples([2, 0, 5])
    assert torch.equal(numbered.draw(1, like)[:2], plain.draw(1, like)[[2, 0]])
    assert torch.equal(numbered.draw(1, like)[2], plain.draw(1, torch.empty(6, 4, 4))[5])
    assert numbered == adj.Ancestral(seed=9, samples=(2, 0, 5))
    assert adj.Heun().for_samples([1]) == adj.Heun()
    with pytest.raises(adj.errors.ShapeError, match=r"3 samples.*holds 2"):
        numbered.draw(0, like[:2])


def test_zero_terminal_snr_and_flow_matching_start_at_no_signal():
    scheduler = diffusers.DDIMScheduler(
        **STABLE_DIFFUSION, rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )
    zero_terminal = adj.NoiseSchedule.from_scheduler(scheduler)
    for schedule, prediction in (
        (zero_terminal, "v_prediction"),
        (adj.NoiseSchedule.flow_matching(), "flow"),
    ):
        torch.manual_seed(0)
        network = Mixture(schedule, std=1.0, prediction=prediction)
        noise = torch.randn(3, 3, dtype=torch.float64)
        reference = adj.sample(
            adj.Denoiser(network, prediction),
            noise,
            schedule=schedule,
            steps=150,
            sampler=adj.Heun(),
        )
        for sampler in (adj.Heun(), adj.Midpoint(), adj.RungeKutta4(), adj.DPMSolverPP()):
            ours = adj.sample(
                adj.Denoiser(network, prediction),
                noise,
                schedule=schedule,
                steps=60,
                sampler=sampler,
            )
            assert relative_error(ours, reference) < 0.02


def test_samplers_are_found_by_name():
    assert resolve("dpm_solver_pp") == adj.DPMSolverPP()
    with pytest.raises(adj.errors.UnknownNameError, match="euler, heun"):
        resolve("ddim++")
    with pytest.raises(adj.errors.InvalidTypeError):
        resolve(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: adj.AdamsBashforth(5),
        lambda: adj.AdamsBashforth(2.0),  # type: ignore[arg-type]
        lambda: adj.DPMSolverPP(3),
        lambda: adj.DPMSolverPP(1.0),  # type: ignore[arg-type]
        lambda: adj.Ancestral(eta="1"),  # type: ignore[arg-type]
        lambda: adj.Ancestral(eta=1.5),
        lambda: adj.Ancestral(eta=float("nan")),
        lambda: adj.Ancestral(seed=0.5),  # type: ignore[arg-type]
        lambda: adj.Ancestral(samples=(0, 0.5)),  # type: ignore[arg-type]
    ],
)
def test_impossible_samplers_are_refused(make):
    with pytest.raises(adj.errors.AdjointDPMError):
        make()
