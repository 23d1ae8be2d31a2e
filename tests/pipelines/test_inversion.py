"""A picture inverted to noise is drawn again from it."""

import re

import diffusers
import pytest
import torch

import adjointdpm as adj
from adjointdpm import errors
from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.engine.inversion import invert_euler, invert_reversible
from adjointdpm.engine.problem import Problem
from adjointdpm.pipelines import schedulers
from adjointdpm.pipelines.inversion import invert, invert_exactly
from adjointdpm.pipelines.native_samplers import equivalent
from helpers.mixtures import SCHEDULES, Mixture, relative_error


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("seed", [0, 1])
def test_inversion_undoes_eulers_steps(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    schedule = SCHEDULES[name]()
    network = Mixture(schedule, dim=3, std=0.8)
    top = (
        0.9 if name == "flow" else float(schedule.t_max)
    )  # at α = 0 there is no picture left to solve for
    low = 1e-3 if name in ("linear", "flow") else float(schedule.t_min)
    grid = torch.linspace(top, low, 41, dtype=torch.float64)
    start = torch.randn(5, 3, dtype=torch.float64)
    picture = adj.sample(
        network, start / schedule.initial_scale, schedule=schedule, grid=grid
    ).detach()
    sampler = adj.Euler()
    problem = Problem(
        Denoiser(network), schedule, sampler, sampler.plan(schedule, grid), picture, None, None
    )
    back = invert_euler(problem, tolerance=1e-12)
    again = adj.sample(
        network, back / schedule.initial_scale, schedule=schedule, grid=grid
    ).detach()
    assert relative_error(again, picture) < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_drawn_latent_comes_back_through_the_bundled_model(tiny, guidance: float) -> None:
    model, prompt = tiny, "a noto emoji of a lion"
    noise = model.noise(1, 4)
    with torch.no_grad():
        picture = model.generate(prompt, noise, steps=20, guidance_scale=guidance)
        again = invert(model, picture, prompt, steps=20, guidance_scale=guidance)
        redrawn = model.generate(prompt, again, steps=20, guidance_scale=guidance)
        latents = model.pipe.vae.encode(2 * picture - 1).latent_dist.mode()
        decoded = model.decode(
            latents
        )  # what the autoencoder makes of the picture: nothing can come closer
    assert (redrawn - decoded).abs().mean() < 0.01
    assert 0.5 < again.std() < 1.5


def test_what_cannot_be_inverted_is_an_error(tiny) -> None:
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule)

    def torn(x: torch.Tensor, t: torch.Tensor, cond: object) -> torch.Tensor:
        return 50 * torch.sin(40 * network(x, t, None))

    grid, sampler = torch.linspace(999, 0, 4, dtype=torch.float64), adj.Euler()
    problem = Problem(
        Denoiser(torn),
        schedule,
        sampler,
        sampler.plan(schedule, grid),
        torch.randn(4, 3, dtype=torch.float64),
        None,
        None,
    )
    with pytest.raises(errors.ReversalError, match="step"):
        invert_euler(problem, iterations=15)
    with pytest.raises(errors.ShapeError, match="multiples"):
        invert(tiny, torch.zeros(1, 3, 63, 64), "a fox")


@pytest.mark.parametrize("name", ["PNDM", "DPMSolverMultistep", "DDPM", "EulerDiscrete", "LCM"])
def test_other_schedulers_are_refused_with_the_one_to_set(name: str) -> None:
    model = adj.load("tiny")
    picture, own = torch.rand(1, 3, 64, 64), model.pipe.scheduler
    model.pipe.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(own.config)
    with pytest.raises(errors.UnsupportedError, match="only DDIM's steps can be inverted") as found:
        invert(model, picture, "a fox", steps=20)
    assert "gradient" not in str(found.value)
    code = re.search(r"pipe.scheduler = (DDIMScheduler.*?\))", str(found.value))
    assert code is not None
    given = {"DDIMScheduler": diffusers.DDIMScheduler, "pipe": model.pipe}
    model.pipe.scheduler = eval(code[1], given)
    repeated = equivalent(schedulers.start(model.pipe.scheduler, 20, model.device))
    assert isinstance(repeated[0], adj.Euler)


def reversible(
    name: str, steps: int, coupling: float, dtype: torch.dtype, guidance: float = 3.0
) -> tuple[Problem, torch.Tensor]:
    """The problem of a picture that Euler's method drew, and its grid."""
    torch.manual_seed(0)
    schedule = SCHEDULES[name]()
    cond, null = torch.randn(5, 3, dtype=dtype), torch.zeros(1, 3, dtype=dtype)
    denoiser = Denoiser(Mixture(schedule).to(dtype), guidance_scale=guidance, null_cond=null)
    picture = adj.sample(
        denoiser, torch.randn(5, 3, dtype=dtype), schedule=schedule, cond=cond, steps=50
    ).detach()
    sampler, grid = adj.ReversibleEuler(coupling), adj.grids.log_snr(schedule, steps)
    return Problem(
        denoiser, schedule, sampler, sampler.plan(schedule, grid), picture, cond, null
    ), grid


def redrawn(
    problem: Problem,
    grid: torch.Tensor,
    noise: torch.Tensor,
    sampler: adj.ReversibleEuler,
    method: object = "exact",
) -> torch.Tensor:
    return adj.sample(
        problem.denoiser,
        noise,
        schedule=problem.schedule,
        cond=problem.cond,
        grid=grid,
        sampler=sampler,
        gradient=method,  # pyright: ignore[reportArgumentType]
    )


@pytest.mark.parametrize("name", ["table", "linear", "edm"])
def test_the_reversible_sampler_inverts_to_rounding_and_its_gradient_is_exact_there(
    name: str,
) -> None:
    problem, grid = reversible(name, 50, 0.9, torch.float64)
    start, sampler = invert_reversible(problem)
    noise = (start / problem.schedule.initial_scale).requires_grad_()
    found = {}
    for method in (adj.Backprop(), adj.Reversible()):
        again = redrawn(problem, grid, noise, sampler, method)
        assert relative_error(again, problem.start) < 1e-10
        found[method] = torch.autograd.grad(again.sin().sum(), noise)[0]
    assert relative_error(found[adj.Reversible()], found[adj.Backprop()]) < 1e-8


@pytest.mark.slow
def test_what_a_way_back_returns_is_right_or_it_is_an_error() -> None:
    refused = []
    for coupling in (0.3, 0.6, 0.9, 0.99):
        for steps in (4, 10, 50, 200):
            problem, grid = reversible("table", steps, coupling, torch.float32)
            try:
                start, sampler = invert_reversible(problem, dtype=torch.float32)
            except errors.ReversalError:
                refused.append((coupling, steps))
            else:
                again = redrawn(problem, grid, start, sampler).detach()
                assert (again - problem.start).norm(dim=1).div(
                    problem.start.norm(dim=1)
                ).max() <= 1e-5
            if coupling < 0.9:
                continue
            exact, sampler = invert_reversible(problem)
            assert exact.dtype == torch.float64
            assert (
                relative_error(
                    redrawn(problem, grid, exact, sampler).detach(), problem.start.double()
                )
                < 1e-9
            )
    assert 0 < len(refused) < 16


def test_a_gap_must_fit() -> None:
    problem, grid = reversible("table", 10, 0.9, torch.float64)
    with pytest.raises(errors.ShapeError, match="gap"):
        redrawn(problem, grid, problem.start, adj.ReversibleEuler(0.9, gap=torch.zeros(1, 3)))
    with pytest.raises(errors.InvalidInputError, match="detach"):
        adj.ReversibleEuler(gap=torch.zeros(1, 3, requires_grad=True))
    with pytest.raises(errors.InvalidTypeError, match="gap"):
        adj.ReversibleEuler(gap=0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors.UnsupportedError, match="ReversibleEuler"):
        invert_reversible(
            Problem(
                problem.denoiser,
                problem.schedule,
                adj.Euler(),
                problem.plan,
                problem.start,
                problem.cond,
                None,
            )
        )


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_picture_comes_back_to_the_last_digits_through_the_bundled_model(
    tiny, guidance: float
) -> None:
    model, steps = tiny, 16
    with torch.no_grad():
        noise = model.noise(1, 4)
        cond, null, scale = model.conditioning(
            model.encode("a noto emoji of a lion"), None, guidance
        )
        schedule, sampler = (
            adj.NoiseSchedule.from_scheduler(model.pipe.scheduler),
            adj.ReversibleEuler(),
        )
        grid, denoiser = (
            adj.grids.log_snr(schedule, steps),
            Denoiser(model.network, guidance_scale=scale, null_cond=null),
        )
        latents = adj.sample(
            denoiser, noise, schedule=schedule, cond=cond, steps=8
        ).double()  # the states are in float64, the network is not
        problem = Problem(
            denoiser, schedule, sampler, sampler.plan(schedule, grid), latents, cond, null
        )
        again = redrawn(problem, grid, *invert_reversible(problem))
        assert (model.decode(again.float()) - model.decode(latents.float())).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_users_pictures_come_back_exactly_and_so_do_the_gradients(tiny, guidance: float) -> None:
    model, prompt, steps = tiny, "a noto emoji of a lion", 12
    pictures = torch.rand(
        2, 3, 64, 64, generator=torch.Generator().manual_seed(0)
    )  # of nothing that the model knows
    noise, sampler = invert_exactly(model, pictures, prompt, steps=steps, guidance_scale=guidance)
    assert noise.dtype == torch.float64
    found = []
    for method in (adj.Reversible(), adj.Checkpoint()):
        start = noise.clone().requires_grad_()
        again = model.generate(
            prompt, start, steps=steps, guidance_scale=guidance, sampler=sampler, gradient=method
        )
        found.append(torch.autograd.grad(again.square().sum(), start)[0])
    with torch.no_grad():
        decoded = model.decode(
            model.pipe.vae.encode(2 * pictures - 1).latent_dist.mode()
            * model.pipe.vae.config.scaling_factor
        )
    assert (again.detach() - decoded).abs().max() < 1e-5
    assert relative_error(*found) < 1e-6
    with pytest.raises(errors.ShapeError, match="multiples"):
        invert_exactly(model, torch.zeros(1, 3, 63, 64), prompt)
