"""Gradients against central finite differences, full backpropagation and closed forms."""

import math
import zlib

import pytest
import torch

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.samplers import Sampler
from helpers.mixtures import PREDICTIONS, SCHEDULES, Mixture, gaussian_flow, relative_error
from helpers.pairwise import pairwise

SAMPLERS: list[Sampler] = [
    adj.Euler(),
    adj.Heun(),
    adj.Midpoint(),
    adj.RungeKutta4(),
    adj.AdamsBashforth(2),
    adj.AdamsBashforth(3),
    adj.AdamsBashforth(4),
    adj.DPMSolverPP(),
    adj.ReversibleEuler(),
    adj.Ancestral(eta=1.0, seed=3),
    adj.Ancestral(eta=0.4, seed=1),
]


def name(value: object) -> str:
    return repr(value)


def usable_grid(
    schedule: adj.NoiseSchedule, steps: int, prediction: str, sampler: Sampler
) -> torch.Tensor:
    """The default grid without times where this prediction or sampler is singular."""
    grid = adj.grids.karras(schedule, steps)
    low = (
        1e-2 if prediction == "sample" and float(schedule.sigma(grid[-1])) == 0 else grid[-1].item()
    )
    high = (
        0.99
        if float(schedule.alpha(grid[0])) == 0
        and (
            prediction == "epsilon" or isinstance(sampler, adj.AdamsBashforth | adj.ReversibleEuler)
        )
        else grid[0].item()
    )
    return low + (grid - grid[-1]) * (high - low) / (grid[0] - grid[-1])


def finite_difference(
    loss, tensor: torch.Tensor, direction: torch.Tensor, h: float = 1e-5
) -> float:
    with torch.no_grad():
        original = tensor.clone()
        tensor.copy_(original + h * direction)
        above = loss().item()
        tensor.copy_(original - h * direction)
        below = loss().item()
        tensor.copy_(original)
    return (above - below) / (2 * h)


def assert_matches_finite_differences(
    loss, tensors: list[torch.Tensor], tolerance: float = 2e-6
) -> None:
    gradients = torch.autograd.grad(loss(), tensors)
    for tensor, gradient in zip(tensors, gradients, strict=True):
        direction = torch.randn_like(tensor)
        direction /= direction.norm()
        expected = finite_difference(loss, tensor, direction)
        # Relative to the gradient's size: a random direction can be nearly orthogonal to it.
        assert abs((gradient * direction).sum().item() - expected) <= tolerance * (
            1 + gradient.norm().item()
        )


@pytest.mark.parametrize(
    ("sampler", "prediction", "schedule_name"),
    pairwise(SAMPLERS, PREDICTIONS, SCHEDULES),
    ids=name,
)
def test_checkpoint_equals_finite_differences(sampler, prediction, schedule_name):
    torch.manual_seed(zlib.crc32(repr((sampler, prediction, schedule_name)).encode()))
    schedule = SCHEDULES[schedule_name]()
    network = Mixture(schedule, prediction=prediction)
    noise = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    cond = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, dtype=torch.float64)
    grid = usable_grid(schedule, 7, prediction, sampler)

    def loss():
        x = adj.sample(
            adj.Denoiser(network, prediction),
            noise,
            schedule=schedule,
            cond=cond,
            grid=grid,
            sampler=sampler,
        )
        return (weight * x.tanh()).sum()

    assert_matches_finite_differences(loss, [noise, cond, network.means, network.log_std])


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("seed", [0, 1])
def test_stored_euler_adjoint_equals_finite_differences(prediction, schedule_name, seed):
    torch.manual_seed(seed)
    schedule = SCHEDULES[schedule_name]()
    network = Mixture(schedule, prediction=prediction)
    noise = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    cond = {
        "text": [torch.randn(2, 3, dtype=torch.float64, requires_grad=True)],
        "unused": torch.zeros(2, 1, dtype=torch.float64),
    }
    grid = usable_grid(schedule, 7, prediction, adj.Euler())

    def loss():
        wrapped = adj.Denoiser(lambda x, t, c: network(x, t, c["text"][0]), prediction)
        x = adj.sample(
            wrapped, noise, schedule=schedule, cond=cond, grid=grid, gradient=adj.Adjoint("stored")
        )
        return x.tanh().sum()

    assert_matches_finite_differences(
        loss, [noise, cond["text"][0], network.means, network.log_std]
    )


@pytest.mark.parametrize("sampler", SAMPLERS, ids=name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("budget", [None, "auto", 1, 4000])
def test_checkpoint_equals_backprop_with_guidance(sampler, dtype, budget):
    torch.manual_seed(0)
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule).to(dtype)
    noise = torch.randn(3, 3, dtype=dtype, requires_grad=True)
    cond = torch.randn(3, 3, dtype=dtype, requires_grad=True)
    null = torch.randn(1, 3, dtype=dtype, requires_grad=True)
    denoiser = adj.Denoiser(network, guidance_scale=3.0, null_cond=null)
    gradients = []
    for method in (adj.Backprop(), adj.Checkpoint(budget)):
        x = adj.sample(
            denoiser, noise, schedule=schedule, cond=cond, steps=9, sampler=sampler, gradient=method
        )
        assert x.dtype == dtype
        gradients.append(torch.autograd.grad(x.square().sum(), [noise, cond, null, network.means]))
    for exact, ours in zip(*gradients, strict=True):
        # Recomputed calls add up in another order, and the reversible sampler multiplies rounding
        # by 1 / coupling at every step.
        single = 3e-5 if isinstance(sampler, adj.ReversibleEuler) else 3e-6
        assert relative_error(ours, exact) <= (1e-12 if dtype == torch.float64 else single)


@pytest.mark.parametrize("states", ["solved", "stored"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adjoint_equals_closed_form_flow_of_a_gaussian(states, seed):
    torch.manual_seed(seed)
    schedule = adj.NoiseSchedule.linear()
    network = Mixture(schedule, components=1, std=0.7)
    noise = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    grid = adj.grids.karras(schedule, 120)

    def loss(x):
        return (x.sin() * torch.arange(1, 4)).sum()

    exact = gaussian_flow(
        schedule, network.means[0], network.log_std.exp(), noise, grid[0], grid[-1]
    )
    expected = torch.autograd.grad(loss(exact), [noise, network.means, network.log_std])
    x = adj.sample(
        network,
        noise,
        schedule=schedule,
        grid=grid,
        sampler=adj.RungeKutta4(),
        gradient=adj.Adjoint(states),
    )
    assert relative_error(x, exact) < 1e-6
    for ours, closed in zip(
        torch.autograd.grad(loss(x), [noise, network.means, network.log_std]), expected, strict=True
    ):
        assert relative_error(ours, closed) < 1e-5


@pytest.mark.parametrize("sampler", [adj.Euler(), adj.Heun()])
def test_the_solved_adjoint_of_flow_matching_converges(sampler: adj.Euler | adj.Heun) -> None:
    schedule = adj.NoiseSchedule.flow_matching()
    network = Mixture(schedule, prediction="flow")
    denoiser = adj.Denoiser(network, "flow")
    torch.manual_seed(3)
    noise = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    errors = []
    for steps in (25, 100):
        given = {"schedule": schedule, "grid": adj.grids.linspace(schedule, steps)}
        found = [
            torch.autograd.grad(
                adj.sample(denoiser, noise, **given, sampler=sampler, gradient=method)
                .square()
                .sum(),
                noise,
            )[0]
            for method in ("exact", "adjoint")
        ]
        errors.append(relative_error(found[1], found[0]))
    assert errors[0] > 3 * errors[1]
    assert errors[1] < 0.1


def stored_adjoint_error(steps: int) -> float:
    torch.manual_seed(2)
    schedule = SCHEDULES["linear"]()
    network = Mixture(schedule)
    noise = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    options = {"schedule": schedule, "grid": adj.grids.karras(schedule, 40), "sampler": adj.Euler()}
    exact = torch.autograd.grad(adj.sample(network, noise, **options).square().sum(), noise)[0]
    ours = torch.autograd.grad(
        adj.sample(network, noise, **options, gradient=adj.Adjoint("stored", steps=steps))
        .square()
        .sum(),
        noise,
    )[0]
    return relative_error(ours, exact)


def test_adjoint_on_a_coarser_grid_of_its_own_approaches_exact():
    errors = [stored_adjoint_error(steps) for steps in (5, 10, 20, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12


@pytest.mark.parametrize("steps", [3, 10, 25, 80])
@pytest.mark.parametrize("states", ["solved", "stored"])
def test_adjoint_takes_any_number_of_steps_and_any_rule_after_any_ode_sampler(states, steps):
    torch.manual_seed(0)
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule, std=1.0)
    noise = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    method = adj.Adjoint(states, sampler=adj.Heun(), steps=steps)
    x = adj.sample(
        network, noise, schedule=schedule, steps=25, sampler=adj.DPMSolverPP(), gradient=method
    )
    exact = adj.sample(network, noise, schedule=schedule, steps=200, sampler=adj.Heun())
    ours, converged = (torch.autograd.grad(y.sum(), noise)[0] for y in (x, exact))
    assert relative_error(ours, converged) < 3 / steps


def test_truncated_is_exact_at_full_length_and_biased_below():
    torch.manual_seed(0)
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule)
    noise = torch.randn(4, 3, dtype=torch.float64)
    cond = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    for sampler in (adj.Euler(), adj.Heun()):
        exact, full, beyond, cut = (
            torch.autograd.grad(
                adj.sample(
                    network,
                    noise,
                    schedule=schedule,
                    cond=cond,
                    steps=12,
                    sampler=sampler,
                    gradient=g,
                )
                .square()
                .sum(),
                cond,
            )[0]
            for g in (adj.Backprop(), adj.Truncated(12), adj.Truncated(100), adj.Truncated(2))
        )
        assert relative_error(full, exact) < 1e-12
        assert relative_error(beyond, exact) < 1e-12
        assert relative_error(cut, exact) > 0.05


def test_truncated_is_the_gradient_of_the_last_steps():
    torch.manual_seed(1)
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule)
    noise = torch.randn(4, 3, dtype=torch.float64)
    cond = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    grid = adj.grids.karras(schedule, 12)
    truncated = adj.sample(
        network, noise, schedule=schedule, cond=cond, grid=grid, gradient=adj.Truncated(3)
    )
    with torch.no_grad():
        middle = adj.sample(network, noise, schedule=schedule, cond=cond, grid=grid[:-3])
    rest = adj.sample(network, middle, schedule=schedule, cond=cond, grid=grid[-4:])
    expected, ours = (torch.autograd.grad(x.square().sum(), cond)[0] for x in (rest, truncated))
    assert relative_error(ours, expected) < 1e-12


METHODS: list[GradientMethod] = [
    adj.Backprop(),
    adj.Checkpoint(),
    adj.Adjoint("solved"),
    adj.Adjoint("stored"),
    adj.Interpolated(1000),
]


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_captured_leaf_tensors_get_their_gradient(method):
    torch.manual_seed(0)
    schedule = SCHEDULES["linear"]()
    network = Mixture(schedule).requires_grad_(False)
    captured = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(2, 3, dtype=torch.float64)
    options = {"schedule": schedule, "grid": adj.grids.karras(schedule, 60), "sampler": adj.Heun()}
    x = adj.sample(lambda x, t, c: network(x, t, captured), noise, **options, gradient=method)
    y = adj.sample(network, noise, cond=captured.expand(2, 3), **options, gradient=adj.Backprop())
    ours, expected = (torch.autograd.grad(z.square().sum(), captured)[0] for z in (x, y))
    assert relative_error(ours, expected) < 0.02


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_captured_intermediate_tensors_get_their_gradient_or_raise(method):
    torch.manual_seed(0)
    schedule = SCHEDULES["linear"]()
    network = Mixture(schedule).requires_grad_(False)
    leaf = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    captured = leaf.exp()
    noise = torch.randn(2, 3, dtype=torch.float64)

    def run():
        return adj.sample(
            lambda x, t, c: network(x, t, captured),
            noise,
            schedule=schedule,
            steps=8,
            gradient=method,
        )

    if isinstance(method, adj.Adjoint | adj.Interpolated):
        with pytest.raises(adj.errors.CapturedTensorError, match="computed outside"):
            run()
    else:
        exact = adj.sample(
            lambda x, t, c: network(x, t, leaf.exp()),
            noise,
            schedule=schedule,
            steps=8,
            gradient=adj.Backprop(),
        )
        ours, expected = (torch.autograd.grad(x.sum(), leaf)[0] for x in (run(), exact))
        assert relative_error(ours, expected) < 1e-12


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_inputs_that_are_themselves_computed_pass_gradients_on(method):
    torch.manual_seed(0)
    schedule = SCHEDULES["linear"]()
    network = Mixture(schedule)
    leaf = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    x = adj.sample(
        network, leaf * 1.0, schedule=schedule, cond=leaf.sin(), steps=30, gradient=method
    )
    y = adj.sample(
        network, leaf * 1.0, schedule=schedule, cond=leaf.sin(), steps=30, gradient=adj.Backprop()
    )
    ours, expected = (torch.autograd.grad(z.square().sum(), leaf)[0] for z in (x, y))
    assert relative_error(ours, expected) < (0.5 if method == adj.Adjoint("solved") else 1e-10)


def test_gradient_with_respect_to_the_grid_equals_finite_differences():
    torch.manual_seed(0)
    schedule = SCHEDULES["linear"]()
    network = Mixture(schedule)
    noise = torch.randn(2, 3, dtype=torch.float64)
    for sampler in SAMPLERS:
        grid = adj.grids.karras(schedule, 6).clone()
        grid[0], grid[-1] = (
            0.95,
            0.01,
        )  # off the schedule's ends, where a difference to either side would leave it
        grid.requires_grad_()

        def loss(grid=grid, sampler=sampler):
            return (
                adj.sample(network, noise, schedule=schedule, grid=grid, sampler=sampler)
                .square()
                .sum()
            )

        assert_matches_finite_differences(loss, [grid], tolerance=1e-5)


def test_gradient_with_respect_to_the_guidance_scale_equals_finite_differences():
    torch.manual_seed(0)
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule)
    noise, cond = torch.randn(2, 2, 3, dtype=torch.float64)
    for shape in ((), (2,)):
        scale = torch.full(shape, 2.5, dtype=torch.float64, requires_grad=True)
        for method in (adj.Checkpoint(), adj.Adjoint("stored")):

            def loss(scale=scale, method=method):
                denoiser = adj.Denoiser(
                    network, guidance_scale=scale, null_cond=torch.zeros(1, 3, dtype=torch.float64)
                )
                return (
                    adj.sample(
                        denoiser, noise, schedule=schedule, cond=cond, steps=8, gradient=method
                    )
                    .square()
                    .sum()
                )

            assert_matches_finite_differences(loss, [scale])


INDEPENDENT: list[tuple[Sampler, GradientMethod]] = [
    (adj.Euler(), adj.Checkpoint()),
    (adj.DPMSolverPP(), adj.Checkpoint()),
    (adj.Ancestral(seed=4), adj.Checkpoint()),
    (adj.Euler(), adj.Adjoint("solved")),
    (adj.Heun(), adj.Adjoint("stored")),
    (adj.Euler(), adj.Interpolated(4)),
    (adj.Heun(), adj.Interpolated(6)),
    (adj.ReversibleEuler(), adj.Reversible()),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("sampler", "method"), INDEPENDENT, ids=name)
def test_one_pass_over_summed_losses_gives_each_sample_its_own_gradient(sampler, method, seed):
    torch.manual_seed(seed)
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule)
    noise, cond = torch.randn(2, 4, 3, dtype=torch.float64)
    null, scale = torch.randn(4, 3, dtype=torch.float64), 1 + torch.rand(4, dtype=torch.float64)
    grid = adj.grids.log_snr(schedule, 10)

    def gradients(samples: slice) -> list[torch.Tensor]:
        leaves = [tensor[samples].clone().requires_grad_() for tensor in (noise, cond, null, scale)]
        denoiser = adj.Denoiser(network, guidance_scale=leaves[3], null_cond=leaves[2])
        x = adj.sample(
            denoiser,
            leaves[0],
            schedule=schedule,
            cond=leaves[1],
            grid=grid,
            sampler=sampler,
            gradient=method,
        )
        losses = x.sin().sum(1) * x.square().sum(1)
        return list(torch.autograd.grad(losses.sum(), leaves))

    together = gradients(slice(None))
    for i in range(
        1 if isinstance(sampler, adj.Ancestral) else 4
    ):  # its noise belongs to the place in the batch
        for whole, alone in zip(together, gradients(slice(i, i + 1)), strict=True):
            assert relative_error(whole[i : i + 1], alone) < 1e-9


def test_dropout_and_autocast_hold_in_the_recomputation():
    torch.manual_seed(0)
    schedule = SCHEDULES["linear"]()
    network = torch.nn.Sequential(
        torch.nn.Linear(6, 32), torch.nn.SiLU(), torch.nn.Dropout(0.3), torch.nn.Linear(32, 6)
    )
    noise = torch.randn(4, 6, requires_grad=True)
    gradients = []
    for method in (adj.Backprop(), adj.Checkpoint()):
        torch.manual_seed(1)
        # With autocast's cache, backpropagation sums the gradients of all calls for a weight in
        # bfloat16; recomputed calls need none.
        with torch.autocast(
            "cpu", torch.bfloat16, cache_enabled=isinstance(method, adj.Checkpoint)
        ):
            x = adj.sample(
                lambda x, t, c: network(x), noise, schedule=schedule, steps=5, gradient=method
            )
        torch.manual_seed(2)
        gradients.append(torch.autograd.grad(x.square().sum(), [noise, *network.parameters()]))
    for exact, ours in zip(*gradients, strict=True):
        assert relative_error(ours, exact) < 1e-6


def test_adjoint_runs_under_the_autocast_of_the_forward_pass():
    torch.manual_seed(0)
    schedule = SCHEDULES["linear"]()
    seen = []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(6, 6)

        def forward(self, x, t, c):
            output = self.linear(x)
            seen.append(output.dtype)
            return output

    noise = torch.randn(4, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        x = adj.sample(Network(), noise, schedule=schedule, steps=5, gradient=adj.Adjoint())
    x.sum().backward()
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 10


def test_weights_coarser_than_the_state_are_fed_in_their_own_precision():
    schedule = SCHEDULES["linear"]()
    network = torch.nn.Linear(6, 6).to(torch.bfloat16)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = network

        def forward(self, x, t, c):
            assert x.dtype == torch.bfloat16
            assert t.dtype == torch.float32
            return self.linear(x)

    x = adj.sample(Network(), torch.randn(2, 6), schedule=schedule, steps=3)
    assert x.dtype == torch.float32
    x.sum().backward()
    assert all(
        p.grad is not None and math.isfinite(p.grad.float().norm()) for p in network.parameters()
    )
