"""A picture inverted to noise is drawn again from it."""

import pytest
import torch

import adjointdpm as adj
from adjointdpm import errors
from adjointdpm.denoiser import Denoiser
from adjointdpm.inversion import invert_euler
from adjointdpm.models.inverted import invert
from adjointdpm.problem import Problem
from mixtures import SCHEDULES, Mixture, relative_error


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("seed", [0, 1])
def test_inversion_undoes_eulers_steps(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    schedule = SCHEDULES[name]()
    network = Mixture(schedule, dim=3, std=0.8)
    top = 0.9 if name == "flow" else float(schedule.t_max)  # at α = 0 there is no picture left to solve for
    low = 1e-3 if name in ("linear", "flow") else float(schedule.t_min)
    grid = torch.linspace(top, low, 41, dtype=torch.float64)
    start = torch.randn(5, 3, dtype=torch.float64)
    picture = adj.sample(network, start / schedule.initial_scale, schedule=schedule, grid=grid).detach()
    sampler = adj.Euler()
    problem = Problem(Denoiser(network), schedule, sampler, sampler.plan(schedule, grid), picture, None, None)
    back = invert_euler(problem, tolerance=1e-12)
    again = adj.sample(network, back / schedule.initial_scale, schedule=schedule, grid=grid).detach()
    assert relative_error(again, picture) < 1e-8


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_drawn_latent_comes_back_through_the_bundled_model(guidance: float) -> None:
    model, prompt = adj.load("tiny"), "a noto emoji of a lion"
    noise = model.noise(1, 4)
    with torch.no_grad():
        picture = model.generate(prompt, noise, steps=20, guidance_scale=guidance)
        again = invert(model, picture, prompt, steps=20, guidance_scale=guidance)
        redrawn = model.generate(prompt, again, steps=20, guidance_scale=guidance)
        latents = model.pipe.vae.encode(2 * picture - 1).latent_dist.mode()
        decoded = model.decode(latents)  # what the autoencoder makes of the picture: nothing can come closer
    assert (redrawn - decoded).abs().mean() < 0.01
    assert 0.5 < again.std() < 1.5


def test_what_cannot_be_inverted_is_an_error() -> None:
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule)

    def torn(x: torch.Tensor, t: torch.Tensor, cond: object) -> torch.Tensor:
        return 50 * torch.sin(40 * network(x, t, None))

    grid, sampler = torch.linspace(999, 0, 4, dtype=torch.float64), adj.Euler()
    problem = Problem(Denoiser(torn), schedule, sampler, sampler.plan(schedule, grid), torch.randn(4, 3, dtype=torch.float64), None, None)
    with pytest.raises(errors.ReversalError, match="step"):
        invert_euler(problem, iterations=15)
    with pytest.raises(errors.ShapeError, match="multiples"):
        invert(adj.load("tiny"), torch.zeros(1, 3, 63, 64), "a fox")
