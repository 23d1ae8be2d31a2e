"""The automatic choice: exact until it has measured, then no worse than it was told to be."""

import logging
import math
import warnings
from dataclasses import dataclass

import diffusers
import pytest
import torch

import adjointdpm as adj
from adjointdpm.engine.gradients import resolve
from adjointdpm.engine.gradients.auto import _error
from helpers.mixtures import SCHEDULES, Mixture, relative_error
from helpers.tiny_pipelines import STABLE_DIFFUSION_BETAS, tiny_pipeline

SCHEDULE = SCHEDULES["table"]()


def gradients(network, method, seed=0):
    """Gradients for the noise, the conditioning and a weight, and the number of network calls."""
    noise, cond = torch.randn(
        2, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    ).unbind()
    noise, cond = noise.requires_grad_(), cond.requires_grad_()
    before = network.calls
    x = adj.sample(network, noise, schedule=SCHEDULE, cond=cond, steps=50, gradient=method)
    found = torch.autograd.grad(x.sin().sum(), [noise, cond, network.means])
    return found, network.calls - before


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Mixture(SCHEDULE, std=0.8)


@pytest.mark.parametrize("tolerance", [0.3, 0.03, 1e-9])
def test_the_first_gradient_is_exact_and_later_ones_are_within_the_tolerance(
    network, tolerance, caplog
):
    method = adj.Auto(tolerance)
    exact, calls = gradients(network, adj.Checkpoint())
    with caplog.at_level(logging.INFO, "adjointdpm"):
        first, _ = gradients(network, method)
    again, later_calls = gradients(network, method)
    (choice,) = method.choices[network].values()
    assert caplog.messages == [f"Euler, 50 network calls: {choice.reason}"]
    for ours, later, reference in zip(first, again, exact, strict=True):
        assert relative_error(ours, reference) < 1e-12
        assert relative_error(later, reference) <= max(tolerance, 1e-12)
    assert isinstance(choice.method, adj.Checkpoint if tolerance == 1e-9 else adj.Interpolated)
    assert later_calls == calls if tolerance == 1e-9 else later_calls < calls
    assert all(error > tolerance for error in list(choice.errors.values())[:-1])


def test_it_measures_again_when_its_own_estimate_foretells_too_much(network, caplog):
    """Modes that grow apart change the Jacobian faster, so that as many VJPs do not suffice."""
    method = adj.Auto(0.03)
    with adj.stats() as counts:
        for seed in range(4):  # nothing has changed: one measurement serves all
            gradients(network, method, seed)
    assert [estimate.shape for estimate in counts.error_estimates] == [
        (8,)
    ] * 3  # not of what was tried, nor of the exact one
    (chosen,) = method.choices[network].values()
    assert chosen.method == adj.Interpolated(10)
    with torch.no_grad():
        network.log_std.fill_(math.log(0.4))
    with caplog.at_level(logging.INFO, "adjointdpm"):
        for _ in range(2):
            gradients(network, method)
        assert not caplog.messages  # not yet: a batch may be an exception
        gradients(network, method)
    assert [message.split(" seems")[0] for message in caplog.messages] == ["Interpolated(vjps=10)"]
    (outdated,) = method.choices[network].values()
    assert outdated.outdated
    exact, _ = gradients(network, adj.Checkpoint())
    assert (
        max(relative_error(a, b) for a, b in zip(gradients(network, method)[0], exact, strict=True))
        < 1e-12
    )
    later, _ = gradients(network, method)
    (again,) = method.choices[network].values()
    assert again.method == adj.Interpolated(20)
    assert list(again.errors) == ["Interpolated(vjps=20)"]  # only more than were found wanting
    assert max(relative_error(a, b) for a, b in zip(later, exact, strict=True)) < 0.03


def test_an_exception_or_two_are_no_reason_to_measure_again(network):
    method = adj.Auto(0.03)
    gradients(network, method)
    for std in (0.4, 0.4, 0.8, 0.4, 0.4, 0.8):
        with torch.no_grad():
            network.log_std.fill_(math.log(std))
        gradients(network, method)
    assert [choice.method for choice in method.choices[network].values()] == [adj.Interpolated(10)]


@pytest.mark.parametrize("size", [0.0, math.inf, math.nan])
def test_nothing_is_decided_on_a_gradient_that_says_nothing(network, size):
    """A metric that is flat at the start, or an overflow, must not decide anything."""
    method = adj.Auto(0.01)
    noise, cond = torch.randn(
        2, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).unbind()
    x = adj.sample(
        network, noise.requires_grad_(), schedule=SCHEDULE, cond=cond, steps=50, gradient=method
    )
    torch.autograd.grad(x.sum() * size, noise)
    assert not method.choices[network]
    gradients(network, method)
    exact, _ = gradients(network, adj.Checkpoint())
    assert (
        max(relative_error(a, b) for a, b in zip(gradients(network, method)[0], exact, strict=True))
        < 0.01
    )


def test_a_function_whose_choice_was_given_up_is_not_taken_for_a_new_one(network):
    method, vjps = adj.Auto(0.03), []

    def function(x, t, cond):
        return network(x, t, cond)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for std in (0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.4):
            with torch.no_grad():
                network.log_std.fill_(math.log(std))
            noise, cond = torch.randn(
                2, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
            ).unbind()
            noise.requires_grad_()
            x = adj.sample(function, noise, schedule=SCHEDULE, cond=cond, steps=50, gradient=method)
            torch.autograd.grad(x.sin().sum(), noise)
            vjps += [facts["vjps"] for facts in method.decisions(function).values()]
    assert len(vjps) == 7
    assert vjps[-1] > vjps[0] > 0


def test_decisions_without_an_estimate_are_kept_whatever_comes(network):
    """A single VJP a stage has none: it cannot tell how far it is off."""
    method = adj.Auto(1e-9)
    gradients(network, method)
    ((kind, facts),) = method.decisions(network).items()
    facts |= {"vjps": 2, "errors": {"Interpolated(vjps=2)": 1e-9}, "estimate": None}
    method.decide(network, {kind: facts})
    gradients(network, method)
    assert [choice.method for choice in method.choices[network].values()] == [adj.Interpolated(2)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_infinitely_wrong(bad):
    right = [torch.ones(2, 3)], [torch.ones(4)]
    assert _error(right, right) == 0
    assert _error(([torch.full((2, 3), bad)], [torch.ones(4)]), right) == math.inf
    assert _error(([torch.ones(2, 3)], [torch.full((4,), bad)]), right) == math.inf


def test_tolerance_zero_is_exact_and_measures_nothing(network):
    method = adj.Auto(0)
    exact, calls = gradients(network, adj.Checkpoint())
    ours, same = gradients(network, method)
    assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))
    assert same == calls
    assert not method.choices


def test_what_only_exact_gradients_can_do_is_done_exactly(network):
    leaf = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(2, 3, dtype=torch.float64)
    method = adj.Auto(0.1)
    for _ in range(2):
        captured = leaf.exp()

        def denoiser(x, t, c, captured=captured):
            return network(x, t, captured)

        x = adj.sample(denoiser, noise, schedule=SCHEDULE, steps=8, gradient=method)
        y = adj.sample(denoiser, noise, schedule=SCHEDULE, steps=8, gradient=adj.Backprop())
        ours, exact = (torch.autograd.grad(z.sum(), leaf, retain_graph=True)[0] for z in (x, y))
        assert relative_error(ours, exact) < 1e-12


def test_the_name_keeps_what_was_measured(network):
    assert resolve("auto") is resolve("auto")


def test_pipelines_without_a_native_equivalent_get_exact_gradients(tmp_path):
    pipe = tiny_pipeline(
        tmp_path, diffusers.PNDMScheduler(**STABLE_DIFFUSION_BETAS, skip_prk_steps=True)
    )
    pipe.unet.requires_grad_(False)
    model = adj.from_pipeline(pipe)
    found = []
    for gradient in ("exact", adj.Auto()):
        noise = model.noise(1, seed=0).requires_grad_()
        found.append(
            torch.autograd.grad(
                model.generate("a fox", noise, steps=3, gradient=gradient).sum(), noise
            )[0]
        )
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "bad",
    [{"tolerance": -1}, {"tolerance": float("nan")}, {"tolerance": "low"}, {"memory_budget": 0}],
)
def test_bad_settings(bad):
    with pytest.raises((adj.errors.InvalidInputError, adj.errors.InvalidTypeError)):
        adj.Auto(**bad)


def test_without_gradients_it_is_plain_sampling(network):
    method = adj.Auto()
    noise = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert not adj.sample(
                network, noise, schedule=SCHEDULE, steps=5, gradient=method
            ).requires_grad
    unused = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    x = adj.sample(
        lambda x, t, c: x.tanh(),
        noise.detach(),
        schedule=SCHEDULE,
        cond=unused,
        steps=5,
        gradient=method,
    )
    assert not x.requires_grad
    assert not method.choices.get(network)


def test_what_is_measured_at_one_guidance_scale_or_grid_says_nothing_of_another(network):
    method = adj.Auto(0.3)
    null = torch.zeros(1, 3, dtype=torch.float64)
    cond = torch.randn(4, 3, dtype=torch.float64)
    grids = [adj.grids.karras(SCHEDULE, 12), adj.grids.trailing(SCHEDULE, 12)]
    cases = [
        (1.0, grids[0]),
        (3.0, grids[0]),
        (7.5, grids[0]),
        (7.5, grids[1]),
        (7.5, grids[1] - 1e-3 * torch.arange(13).flip(0)),
    ]
    for scale, grid in cases:
        noise = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        denoiser = adj.Denoiser(network, guidance_scale=scale, null_cond=null)
        grid = grid.clamp(min=0)
        adj.sample(
            denoiser, noise, schedule=SCHEDULE, cond=cond, grid=grid, gradient=method
        ).sum().backward()
    assert len(method.choices[network]) == 4  # a grid that is only jittered counts as the same


def test_it_measures_under_the_autocast_of_the_forward_pass():
    seen = []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(6, 6)

        def forward(self, x, t, c):
            output = self.linear(x)
            seen.append(output.dtype)
            return output.tanh()

    noise = torch.randn(4, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        x = adj.sample(
            Network(), noise, schedule=SCHEDULES["linear"](), steps=5, gradient=adj.Auto(1e-9)
        )
    x.sum().backward()
    assert set(seen) == {torch.bfloat16}
    assert len(seen) > 9  # N and N - 1 are those of the exact gradient itself


@dataclass  # with __eq__ and therefore without a hash
class Unhashable:
    network: Mixture

    def __call__(self, x, t, cond):
        return self.network(x, t, cond)


class Slots:
    __slots__ = ("inner",)

    def __call__(self, x, t, cond):
        return self.inner(x, t, cond)


@pytest.mark.parametrize(
    "method", [adj.Auto(), adj.Checkpoint(10**6), adj.Checkpoint("auto")], ids=repr
)
def test_networks_that_cannot_be_remembered(network, method):
    slots = Slots()
    slots.inner = network
    expected, _ = gradients(network, adj.Checkpoint())
    for callable_ in (Unhashable(network), slots):
        noise, cond = torch.randn(
            2, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        ).unbind()
        leaves = [noise.requires_grad_(), cond.requires_grad_(), network.means]
        x = adj.sample(
            callable_, leaves[0], schedule=SCHEDULE, cond=leaves[1], steps=50, gradient=method
        )
        for ours, exact in zip(torch.autograd.grad(x.sin().sum(), leaves), expected, strict=True):
            assert relative_error(ours, exact) < 1e-12
