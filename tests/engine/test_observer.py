"""A callback sees the costate of every state in the backward pass, with every method."""

import pytest
import torch
from torch import Tensor

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.gradients.few_vjps.node_placement import choose_nodes
from adjointdpm.engine.samplers import Sampler
from helpers.mixtures import SCHEDULES, Mixture, relative_error

STEPS = 9


class Recorder:
    """States on the way there, costates on the way back."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}
        self.costates: dict[int, Tensor] = {}
        self.times: list[float] = []

    def __call__(self, step: int, t: float, x: Tensor, denoised: Tensor) -> None:
        assert step not in self.states
        self.states[step] = x.detach()

    def backward(self, step: int, t: float, costate: Tensor) -> str:
        assert step not in self.costates
        assert not costate.requires_grad
        self.costates[step] = costate.clone()
        self.times.append(t)
        return "what it returns changes nothing"


class Case:
    def __init__(self, schedule_name: str = "table", seed: int = 0, batch: int = 3) -> None:
        torch.manual_seed(seed)
        self.schedule = SCHEDULES[schedule_name]()
        self.network = Mixture(self.schedule, std=0.8)
        self.noise, self.cond, self.weight = torch.randn(3, batch, 3, dtype=torch.float64)
        self.grid = adj.grids.log_snr(self.schedule, STEPS)

    def loss(self, x: Tensor) -> Tensor:
        return (self.weight * x.sin()).sum()

    def sample(self, noise: Tensor, grid: Tensor | None = None, **options) -> Tensor:
        return adj.sample(
            self.network,
            noise,
            schedule=self.schedule,
            cond=self.cond,
            grid=self.grid if grid is None else grid,
            **options,
        )

    def observe(
        self, sampler: Sampler, method: GradientMethod, grid: Tensor | None = None
    ) -> tuple[Recorder, Tensor]:
        """What an observer saw, and the noise's gradient."""
        recorder, noise = Recorder(), self.noise.clone().requires_grad_()
        x = self.sample(noise, grid, sampler=sampler, gradient=method, callback=recorder)
        assert list(recorder.states) == list(
            range((len(self.grid) if grid is None else len(grid)) - 1)
        )
        assert not recorder.costates
        (gradient,) = torch.autograd.grad(self.loss(x), noise)
        return recorder, gradient


EXACT: list[tuple[Sampler, list[GradientMethod]]] = [
    (
        adj.Euler(),
        [
            adj.Checkpoint(),
            adj.Checkpoint(10**6),
            adj.Interpolated(100),
            adj.Adjoint("stored"),
            adj.Truncated(100),
            adj.Auto(),
        ],
    ),
    (adj.Heun(), [adj.Checkpoint(), adj.Interpolated(100)]),
    (adj.Midpoint(), [adj.Checkpoint(), adj.Interpolated(100)]),
    (adj.RungeKutta4(), [adj.Checkpoint(), adj.Interpolated(100)]),
    (adj.AdamsBashforth(3), [adj.Checkpoint(), adj.Interpolated(100)]),
    (adj.DPMSolverPP(), [adj.Checkpoint(), adj.Interpolated(100)]),
    (adj.Ancestral(seed=1), [adj.Checkpoint(), adj.Interpolated(100)]),
    (adj.ReversibleEuler(), [adj.Checkpoint(), adj.Interpolated(100), adj.Reversible()]),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("schedule_name", ["table", "edm"])
@pytest.mark.parametrize(
    ("sampler", "methods"),
    EXACT,
    ids=lambda value: repr(value) if isinstance(value, Sampler) else "",
)
def test_exact_methods_report_the_same_costates_in_order(sampler, methods, schedule_name, seed):
    case = Case(schedule_name, seed)
    expected, _ = case.observe(sampler, adj.Backprop())
    for method in [adj.Backprop(), *methods]:
        recorder, gradient = case.observe(sampler, method)
        assert list(recorder.costates) == [*reversed(range(STEPS)), -1]
        assert recorder.times == case.grid.flip(0).tolist()
        assert relative_error(recorder.costates[-1] * case.schedule.initial_scale, gradient) < 1e-12
        for step, costate in recorder.costates.items():
            assert relative_error(costate, expected.costates[step]) < 1e-10
            assert (
                relative_error(
                    recorder.states.get(step, case.noise), expected.states.get(step, case.noise)
                )
                < 1e-12
            )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "sampler", [adj.Euler(), adj.Heun(), adj.Midpoint(), adj.RungeKutta4()], ids=repr
)
def test_a_costate_is_the_gradient_of_what_remains(sampler, seed):
    case = Case(seed=seed)
    recorder, _ = case.observe(sampler, adj.Checkpoint())
    for step, x in recorder.states.items():
        start = x.clone().requires_grad_()
        rest = (
            start
            if step == STEPS - 1
            else case.sample(start, case.grid[step + 1 :], sampler=sampler, gradient="backprop")
        )
        assert (
            relative_error(recorder.costates[step], torch.autograd.grad(case.loss(rest), start)[0])
            < 1e-10
        )
        if 0 < step < STEPS - 1:
            direction, h = torch.randn_like(x), 1e-5
            ends = [
                case.loss(
                    case.sample(x + side * h * direction, case.grid[step + 1 :], sampler=sampler)
                ).item()
                for side in (1, -1)
            ]
            expected = (ends[0] - ends[1]) / (2 * h)
            assert abs((recorder.costates[step] * direction).sum().item() - expected) < 1e-7 * (
                1 + abs(expected)
            )


@pytest.mark.parametrize("vjps", [1, 2, 5, 8])
def test_few_vjps_report_each_step_once(vjps):
    case = Case()
    recorder, gradient = case.observe(adj.Euler(), adj.Interpolated(vjps))
    assert list(recorder.costates) == [*reversed(range(STEPS)), -1]
    assert torch.equal(recorder.costates[-1], gradient)


def test_few_vjps_report_what_the_gradient_came_from():
    """Between the noise and the one interpolated step reported costates are corrected, so exact."""
    case = Case()
    recorder, gradient = case.observe(adj.Euler(), adj.Interpolated(STEPS - 1))
    (skipped,) = set(range(STEPS)) - set(choose_nodes(list(range(STEPS)), STEPS - 1))
    assert skipped > 2
    for step in range(skipped - 1):
        noise = case.noise.clone().requires_grad_()
        x = case.sample(noise, case.grid[: step + 2])
        assert (
            relative_error(torch.autograd.grad(x, noise, recorder.costates[step])[0], gradient)
            < 1e-12
        )


def test_costates_from_few_vjps_approach_the_exact_ones():
    case = Case()
    grid = adj.grids.log_snr(case.schedule, 60)
    exact, _ = case.observe(adj.Euler(), adj.Checkpoint(), grid)
    errors = []
    for vjps in (6, 12, 24):
        recorder, _ = case.observe(adj.Euler(), adj.Interpolated(vjps), grid)
        errors.append(
            max(
                relative_error(costate, exact.costates[step])
                for step, costate in recorder.costates.items()
            )
        )
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("states", ["solved", "stored"])
@pytest.mark.parametrize("rule", [adj.Euler(), adj.Heun(), adj.AdamsBashforth(2)], ids=repr)
def test_the_adjoint_on_a_grid_of_its_own_reports_the_times_that_coincide(states, rule):
    case = Case()
    grid = adj.grids.log_snr(case.schedule, 12)
    for steps, expected in (
        (4, [11, 8, 5, 2, -1]),
        (24, [*reversed(range(12)), -1]),
        (12, [*reversed(range(12)), -1]),
    ):
        recorder, gradient = case.observe(
            adj.Euler(), adj.Adjoint(states, sampler=rule, steps=steps), grid
        )
        assert list(recorder.costates) == expected
        assert recorder.times == [grid[step + 1].item() for step in expected]
        assert torch.equal(recorder.costates[-1], gradient)


def test_the_adjoints_costates_converge():
    case = Case("linear")
    grid = torch.linspace(0.9, 0.1, 81, dtype=torch.float64)
    exact, _ = case.observe(adj.RungeKutta4(), adj.Checkpoint(), grid)
    for states in ("solved", "stored"):
        recorder, _ = case.observe(adj.RungeKutta4(), adj.Adjoint(states), grid)
        assert (
            max(
                relative_error(costate, exact.costates[step])
                for step, costate in recorder.costates.items()
            )
            < 1e-5
        )


@pytest.mark.parametrize(
    "method",
    [adj.Checkpoint(), adj.Backprop(), adj.Interpolated(3), adj.Adjoint("stored")],
    ids=repr,
)
def test_noise_that_needs_no_gradient_has_no_costate(method):
    case, recorder = Case(), Recorder()
    case.cond.requires_grad_()
    case.loss(case.sample(case.noise, gradient=method, callback=recorder)).backward()
    assert list(recorder.costates) == [*reversed(range(STEPS))]


def test_truncated_reports_what_its_gradient_passes_through():
    case, recorder = Case(), Recorder()
    case.cond.requires_grad_()
    case.loss(case.sample(case.noise, gradient=adj.Truncated(3), callback=recorder)).backward()
    assert list(recorder.costates) == [STEPS - 1, STEPS - 2, STEPS - 3]


@pytest.mark.parametrize("method", [adj.Checkpoint(), adj.Interpolated(3), adj.Adjoint()], ids=repr)
def test_an_observer_sees_its_own_solve_only(method):
    case, first, second = Case(), Recorder(), Recorder()
    noise = case.noise.clone().requires_grad_()
    case.sample(noise, gradient=method, callback=first)
    (
        case.loss(case.sample(noise, gradient=method, callback=second)) + noise.square().sum()
    ).backward()
    assert not first.costates
    assert len(second.costates) == STEPS + 1
    assert noise.grad is not None
    assert relative_error(second.costates[-1] + 2 * noise.detach(), noise.grad) < 1e-12


def test_without_gradients_and_for_plain_functions_there_is_no_way_back():
    case, recorder, seen = Case(), Recorder(), []
    with torch.no_grad():
        case.sample(case.noise.clone().requires_grad_(), callback=recorder)
    assert len(recorder.states) == STEPS
    noise = case.noise.clone().requires_grad_()
    case.loss(
        case.sample(noise, callback=lambda step, t, x, denoised: seen.append(step))
    ).backward()
    assert seen == list(range(STEPS))


def test_what_auto_tries_out_is_not_reported():
    case, recorder = Case(), Recorder()
    noise = case.noise.clone().requires_grad_()
    method = adj.Auto(1e-6)
    case.loss(
        case.sample(noise, gradient=method, callback=recorder)
    ).backward()  # the recorder refuses a step twice
    assert method.choices[case.network]
    assert isinstance(recorder, adj.SamplingObserver)
