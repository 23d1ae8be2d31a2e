"""Rare and legitimate uses: the gradient of full backpropagation, or an error with advice."""

import copy
import gc
import math
import pickle
import threading
import weakref
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.engine.plan_builder import PlanBuilder
from adjointdpm.engine.samplers import Sampler
from helpers.mixtures import SCHEDULES, relative_error

SCHEDULE = adj.NoiseSchedule.linear()
RECOMPUTING = [
    adj.Checkpoint(),
    adj.Interpolated(3),
    adj.Interpolated(1000),
    adj.Adjoint("solved"),
    adj.Adjoint("stored"),
]


class Network(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 16).double(), nn.Linear(16, 4).double()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.outer(
            self.dropout(torch.tanh(self.inner(torch.cat([x, cond, t[:, None].to(x)], 1))))
        )


@pytest.fixture(params=range(2))
def seed(request):
    torch.manual_seed(request.param)
    return request.param


def solve(network, method, noise, cond, steps=6, **options) -> Tensor:
    return adj.sample(
        network, noise, schedule=SCHEDULE, cond=cond, steps=steps, gradient=method, **options
    )


def inputs(batch: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 4, dtype=dtype, requires_grad=True), torch.randn(
        batch, 3, dtype=dtype, requires_grad=True
    )


# What Interpolated guesses lengths from.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vjps", [3, 5, 10])
def test_a_conditioning_that_is_used_at_some_times_only_gets_finite_gradients(seed, dtype, vjps):
    noise, cond = torch.randn(2, 2, 4, dtype=dtype).unbind()
    cond.requires_grad_()

    def network(x, t, c):
        return 0.5 * x.tanh() + c.tanh() * (t > 0.3).to(x)[:, None]

    for scale in (1, 100):
        (found,) = torch.autograd.grad(
            (scale * solve(network, adj.Interpolated(vjps), noise, cond, steps=20)).sum(), cond
        )
        assert found.isfinite().all()


@pytest.mark.parametrize("vjps", [3, 5, 10, 20])
def test_in_float16_terms_that_underflow_do_not_spoil_the_others(seed, vjps):
    network = Network().half()
    noise, cond = inputs(dtype=torch.float16)
    found = torch.autograd.grad(
        solve(network, adj.Interpolated(vjps), noise, cond, steps=20).sum(),
        [noise, cond, *network.parameters()],
    )
    assert all(gradient.isfinite().all() for gradient in found)


def test_the_size_of_the_loss_does_not_matter(seed):
    network = Network().float()
    noise, cond = inputs(dtype=torch.float32)

    def gradients(scale: float) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            (scale * solve(network, adj.Interpolated(8), noise, cond, steps=20)).sum(),
            [noise, cond],
        )

    plain = gradients(1.0)
    for scale in (1e-30, 1e-20, 1e-10, 1e20):
        assert all(
            relative_error(a / scale, b) < 1e-4
            for a, b in zip(gradients(scale), plain, strict=True)
        )


def test_a_sample_with_a_vanishing_loss_does_not_spoil_what_it_shares_with_others(seed):
    network = Network().float()
    noise, shared = torch.randn(4, 4), torch.randn(1, 3, requires_grad=True)
    weights = torch.tensor([1.0, 1e-20, 1.0, 1.0])

    def gradient(method):
        x = solve(network, method, noise, shared.expand(4, -1), steps=20)
        return torch.autograd.grad((x.sum(1) * weights).sum(), shared)[0]

    assert relative_error(gradient(adj.Interpolated(8)), gradient(adj.Checkpoint())) < 1


def test_an_output_that_depends_on_nothing_has_no_gradient():
    noise = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    for prediction in ("epsilon", "v_prediction"):
        found = []
        for method in (
            adj.Backprop(),
            adj.Interpolated(1000),
            adj.Checkpoint(),
            adj.Adjoint("stored"),
        ):
            x = solve(
                adj.Denoiser(lambda x, t, c: torch.zeros_like(x), prediction), method, noise, None
            )
            found.append(torch.autograd.grad(x.sum(), noise)[0])
        assert all(relative_error(gradient, found[0]) < 1e-12 for gradient in found[1:])


@pytest.mark.parametrize("method", [*RECOMPUTING, adj.Truncated(3)], ids=repr)
def test_states_may_be_numbers(method):
    noise = torch.randn(3, dtype=torch.float64, requires_grad=True)
    x = solve(lambda x, t, c: x.tanh(), method, noise, None)
    assert torch.autograd.grad(x.sum(), noise)[0].shape == (3,)


@dataclass(frozen=True)
class Warm(Sampler):
    """One Euler step and then Heun's, or Heun's once and then Euler's."""

    heun_first: bool

    def plan(self, schedule, grid):
        plan = PlanBuilder(schedule, grid)
        x = plan.start
        for k, (now, then) in enumerate(pairwise(range(len(grid)))):
            data, noise = plan.call(x, now)
            if (k == 0) != self.heun_first:
                x = plan.end_step(plan.alpha[then] * data + plan.sigma[then] * noise)
                continue
            h = plan.rho[then] - plan.rho[now]
            _, after = plan.call((x / plan.alpha[now] + h * noise) * plan.alpha[then], then)
            x = plan.end_step((x / plan.alpha[now] + (h / 2) * (noise + after)) * plan.alpha[then])
        return plan.build()

    def calls(self, steps: int) -> int:
        return steps + 1 if self.heun_first else 2 * steps - 1


@pytest.mark.parametrize("heun_first", [False, True])
def test_steps_may_differ_in_their_number_of_calls(seed, heun_first):
    sampler, network = Warm(heun_first), Network()
    noise, cond = inputs()
    leaves = [noise, cond, *network.parameters()]
    exact = torch.autograd.grad(
        solve(network, adj.Backprop(), noise, cond, sampler=sampler).sum(), leaves
    )
    for vjps in (1, 4, 8):
        with adj.stats() as counted:
            found = torch.autograd.grad(
                solve(network, adj.Interpolated(vjps), noise, cond, sampler=sampler).sum(), leaves
            )
        assert all(gradient.isfinite().all() for gradient in found)
        assert counted.vjps <= max(vjps, 2)
    found = torch.autograd.grad(
        solve(network, adj.Interpolated(100), noise, cond, sampler=sampler).sum(), leaves
    )
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(found, exact, strict=True))


# What changes between sampling and the backward pass.


@pytest.mark.parametrize(
    "method", [adj.Checkpoint(), adj.Interpolated(3), adj.Adjoint("stored")], ids=repr
)
def test_a_captured_weight_that_was_trained_in_between_is_an_error(seed, method):
    network, table = Network().requires_grad_(False), nn.Embedding(5, 3, dtype=torch.float64)
    noise, labels = torch.randn(2, 4, dtype=torch.float64), torch.tensor([1, 2])
    pictures = [
        solve(lambda x, t, c: network(x, t, table(c)), method, noise, labels) for _ in range(2)
    ]
    optimiser = torch.optim.SGD(table.parameters(), 0.1)
    pictures[0].sum().backward()
    optimiser.step()
    with pytest.raises(adj.errors.ChangedTensorError, match=r"before optimizer\.step"):
        pictures[1].sum().backward()


@pytest.mark.parametrize("method", RECOMPUTING, ids=repr)
def test_a_frozen_weight_that_was_changed_in_between_is_an_error(seed, method):
    network = Network().requires_grad_(False)
    noise, cond = inputs()
    x = solve(network, method, noise, cond)
    network.outer.bias.mul_(2)  # of which autograd saves nothing
    with pytest.raises(adj.errors.ChangedTensorError):
        x.sum().backward()


@pytest.mark.parametrize("method", RECOMPUTING, ids=repr)
def test_weights_that_were_switched_on_in_between_get_nothing(seed, method):
    network = Network().requires_grad_(False)
    noise, cond = inputs()
    x, y = (solve(network, method, noise, cond) for _ in range(2))
    network.requires_grad_(True)
    (found,) = torch.autograd.grad(x.sum(), noise)
    assert torch.equal(
        found, torch.autograd.grad(solve(network, method, noise, cond).sum(), noise)[0]
    )
    y.sum().backward()
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("method", RECOMPUTING, ids=repr)
def test_weights_that_were_switched_off_in_between_are_an_error(seed, method):
    network = Network()
    noise, cond = inputs()
    x = solve(network, method, noise, cond)
    network.requires_grad_(False)
    with pytest.raises(adj.errors.ChangedTensorError, match="turned off"):
        x.sum().backward()


@pytest.mark.parametrize(
    "method", [adj.Checkpoint(), adj.Interpolated(1000), adj.Adjoint("stored")], ids=repr
)
@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_forward_pass_holds_in_the_backward_pass(seed, method, training):
    network = Network(dropout=0.5).train(training)
    noise, cond = inputs()
    found = []
    for chosen in (adj.Backprop(), method):
        torch.manual_seed(seed)
        x = solve(network.train(training), chosen, noise, cond)
        network.train(not training)
        found.append(torch.autograd.grad(x.sum(), [noise, cond, *network.parameters()]))
        assert all(part.training != training for part in network.modules())
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(*found, strict=True))


# Memory.


@pytest.mark.parametrize(
    ("method", "sampler"),
    [(m, adj.Euler()) for m in RECOMPUTING] + [(adj.Reversible(), adj.ReversibleEuler())],
    ids=repr,
)
def test_nothing_is_left_of_a_solve_once_its_result_is_gone(method, sampler):
    gc.collect()
    gc.disable()
    try:
        network = Network()
        noise, cond = inputs()
        seen: list[weakref.ref] = []
        x = solve(
            network,
            method,
            noise,
            cond,
            sampler=sampler,
            grid=adj.grids.log_snr(SCHEDULE, 12),
            callback=lambda step, t, x, denoised: seen.append(weakref.ref(x.untyped_storage())),
        )
        x.sum().backward()
        # Without the garbage collector; the last state is the picture.
        alive = sum(storage() is not None for storage in seen[:-1])
        del x
        assert sum(storage() is not None for storage in seen) == 0
        if method == adj.Checkpoint():
            assert alive <= 1
    finally:
        gc.enable()


# Where a method may be used.


@pytest.mark.parametrize(
    "method",
    [
        adj.Checkpoint(),
        adj.Checkpoint(10**6),
        adj.Auto(0.1),
        adj.Interpolated(3),
        adj.Adjoint("stored"),
    ],
)
def test_methods_can_be_pickled_copied_and_used_as_keys(seed, method):
    network = Network()
    solve(network, method, *inputs()).sum().backward()
    for other in (pickle.loads(pickle.dumps(method)), copy.deepcopy(method)):
        assert other == method
        assert {method: 1}[other] == 1
    solve(network, pickle.loads(pickle.dumps(method)), *inputs()).sum().backward()


@pytest.mark.parametrize("method", [*RECOMPUTING, adj.Truncated(2)], ids=repr)
def test_inside_of_function_transforms_full_backpropagation_is_asked_for(method):
    noise = torch.randn(2, 4, dtype=torch.float64)
    cond = torch.zeros(2, 3, dtype=torch.float64)
    network = Network()
    with pytest.raises(adj.errors.UnsupportedError, match="Backprop"):
        torch.func.grad(lambda x: solve(network, method, x, cond).sum())(noise)
    ours = torch.func.grad(lambda x: solve(network, adj.Backprop(), x, cond).sum())(noise)
    exact = torch.autograd.grad(
        solve(network, adj.Checkpoint(), noise.requires_grad_(), cond).sum(), noise
    )[0]
    assert relative_error(ours, exact) < 1e-12


@pytest.mark.parametrize("method", [*RECOMPUTING, adj.Backprop()], ids=repr)
def test_noise_of_inference_mode_can_be_used(seed, method):
    network = Network()
    with torch.inference_mode():
        noise, cond = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    found = torch.autograd.grad(
        solve(network, method, noise, cond).sum(), list(network.parameters())
    )
    expected = torch.autograd.grad(
        solve(network, method, noise.clone(), cond.clone()).sum(), list(network.parameters())
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("method", [adj.Checkpoint(), adj.Interpolated(3)], ids=repr)
def test_a_captured_result_is_found_in_a_thread_of_its_own(seed, method):
    """Autograd numbers nodes by thread: in a young one, a node of an old one looks new."""
    leaf = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    for _ in range(300):
        leaf.clone()
    captured = leaf.exp()
    outcome: list[object] = []

    def run() -> None:
        try:
            x = solve(
                lambda x, t, c: (x * captured).tanh(),
                method,
                torch.ones(2, 4, dtype=torch.float64),
                None,
            )
            outcome.append(torch.autograd.grad(x.sum(), leaf, retain_graph=True)[0])
        except adj.errors.CapturedTensorError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(method, adj.Checkpoint):
        x = solve(
            lambda x, t, c: (x * captured).tanh(),
            adj.Backprop(),
            torch.ones(2, 4, dtype=torch.float64),
            None,
        )
        assert isinstance(outcome[0], Tensor)
        assert relative_error(outcome[0], torch.autograd.grad(x.sum(), leaf)[0]) < 1e-12
    else:
        assert isinstance(outcome[0], adj.errors.CapturedTensorError)


def test_no_step_goes_from_no_signal_to_no_noise():
    schedule = SCHEDULES["flow"]()
    denoiser = adj.Denoiser(lambda x, t, c: x.tanh(), "flow")
    noise = torch.ones(1, 2, requires_grad=True)
    for sampler in (adj.Heun(), adj.Midpoint(), adj.RungeKutta4()):
        with pytest.raises(adj.errors.ScheduleError, match="more steps"):
            adj.sample(denoiser, noise, schedule=schedule, steps=1, sampler=sampler)
    for method, steps in (
        (adj.Adjoint(), 1),
        (adj.Adjoint(steps=1), 30),
        (adj.Adjoint("stored", steps=1), 30),
    ):
        with pytest.raises(adj.errors.ScheduleError, match="more steps"):
            adj.sample(denoiser, noise, schedule=schedule, steps=steps, gradient=method)
    assert adj.sample(denoiser, noise, schedule=schedule, steps=1).isfinite().all()


def test_no_noise_at_all_can_be_reversed():
    noise = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    grid = adj.grids.log_snr(SCHEDULE, 20)
    x = solve(
        lambda x, t, c: x.tanh(),
        adj.Reversible(),
        noise,
        None,
        grid=grid,
        sampler=adj.ReversibleEuler(),
    )
    assert math.isfinite(torch.autograd.grad(x.sum(), noise)[0].sum().item())
