"""Gradients for the time grid and the guidance scale, against finite differences in float64."""

import zlib

import diffusers
import pytest
import torch
from torch import Tensor

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.samplers import Sampler
from helpers.mixtures import SCHEDULES, Mixture, relative_error
from helpers.tiny_pipelines import tiny_pipeline

SAMPLERS: list[Sampler] = [
    adj.Euler(),
    adj.Heun(),
    adj.Midpoint(),
    adj.RungeKutta4(),
    adj.AdamsBashforth(2),
    adj.AdamsBashforth(4),
    adj.DPMSolverPP(),
    adj.ReversibleEuler(),
    adj.Ancestral(eta=1.0, seed=3),
    adj.Ancestral(eta=0.4, seed=1),
]
PREDICTION = {"table": "epsilon", "linear": "v_prediction", "edm": "sample", "flow": "flow"}
NULL = torch.zeros(1, 3, dtype=torch.float64)


class Case:
    """A guided mixture, and a loss of its sample."""

    def __init__(
        self, schedule: adj.NoiseSchedule, prediction, sampler: Sampler, seed: int
    ) -> None:
        torch.manual_seed(zlib.crc32(repr((sampler, prediction, seed)).encode()))
        self.schedule, self.prediction, self.sampler = schedule, prediction, sampler
        self.network = Mixture(schedule, prediction=prediction)
        self.noise, self.cond, self.weight = torch.randn(3, 4, 3, dtype=torch.float64)

    def loss(
        self, grid: Tensor, scale: float | Tensor = 1.5, method: GradientMethod | str = "exact"
    ) -> Tensor:
        denoiser = adj.Denoiser(self.network, self.prediction, guidance_scale=scale, null_cond=NULL)
        options = {
            "schedule": self.schedule,
            "cond": self.cond,
            "sampler": self.sampler,
            "gradient": method,
        }
        return (self.weight * adj.sample(denoiser, self.noise, grid=grid, **options).tanh()).sum()


def inner_grid(schedule: adj.NoiseSchedule, steps: int = 4) -> Tensor:
    """Random times away from the schedule's ends and from a table's kinks at whole times."""
    grid = adj.grids.karras(schedule, steps)
    span = (grid[0] - grid[-1]).item()
    jitter = grid.diff().abs().min().item() * 0.2 * torch.rand(steps + 1, dtype=torch.float64)
    grid = grid[-1] + 0.02 * span + 0.95 * (grid - grid[-1]) + jitter
    return (
        grid.floor() + 0.3 + 0.4 * torch.rand(steps + 1, dtype=torch.float64)
        if schedule.t_max > 100
        else grid
    )


def central_differences(loss, values: Tensor, step: float) -> Tensor:
    """The gradient, entry by entry, by fourth-order central differences."""
    found = []
    with torch.no_grad():
        for i in range(values.numel()):
            unit = torch.zeros_like(values).view(-1)
            unit[i] = step
            at = [loss(values + k * unit.view_as(values)).item() for k in (-2, -1, 1, 2)]
            found.append((at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step))
    return torch.tensor(found, dtype=torch.float64).view_as(values)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_the_grids_gradient_equals_finite_differences(sampler, schedule_name, seed):
    schedule = SCHEDULES[schedule_name]()
    case = Case(schedule, PREDICTION[schedule_name], sampler, seed)
    grid = inner_grid(schedule)
    # A Runge–Kutta stage between two times can still be near a kink of the table.
    step = 1e-3 if schedule_name == "table" else 1e-4 * grid.diff().abs().min().item()
    expected = central_differences(case.loss, grid, step)
    for method in (
        ("exact", "backprop", adj.Auto(), adj.Truncated(4))
        if isinstance(sampler, adj.Euler)
        else ("exact", "backprop")
    ):
        leaf = grid.clone().requires_grad_()
        (ours,) = torch.autograd.grad(case.loss(leaf, method=method), leaf)
        assert relative_error(ours, expected) < 1e-7


@pytest.mark.parametrize(
    "sampler", [s for s in SAMPLERS if not isinstance(s, adj.ReversibleEuler)], ids=repr
)
def test_the_ends_of_flow_matching_have_one_sided_derivatives(sampler):
    """At t = 1 there is no signal and ρ is infinite, at t = 0 there is no noise.

    Samplers other than Euler and Ancestral have a formula of their own for the first step from t =
    1, which no difference can see.
    """
    schedule = adj.NoiseSchedule.flow_matching()
    case = Case(schedule, "flow", sampler, 0)
    grid = torch.tensor([1.0, 0.8, 0.55, 0.3, 0.1, 0.0], dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(case.loss(grid), grid)
    with torch.no_grad():
        for i, inwards in ((0, -1e-4), (5, 1e-4)):
            if i == 0 and not isinstance(sampler, adj.Euler | adj.Ancestral):
                continue
            values = []
            for k in range(3):
                moved = grid.clone()
                moved[i] += k * inwards
                values.append(case.loss(moved).item())
            expected = (-3 * values[0] + 4 * values[1] - values[2]) / (2 * inwards)
            assert abs(ours[i].item() - expected) < 2e-5 * (1 + ours.norm().item())
    assert ours[0].isfinite()
    inner = central_differences(
        lambda inner: case.loss(torch.cat([grid[:1], inner, grid[-1:]])), grid.detach()[1:-1], 1e-4
    )
    assert relative_error(ours[1:-1], inner) < 1e-7


def test_where_a_schedule_has_no_derivative_is_an_error_and_no_nan():
    scheduler = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    schedule = adj.NoiseSchedule.from_scheduler(scheduler)
    case = Case(schedule, "v_prediction", adj.Euler(), 0)
    with pytest.raises(adj.errors.UnsupportedError, match=r"grid\[0\] = 999"):
        case.loss(torch.tensor([999.0, 400.0, 0.0]).requires_grad_())
    grid = torch.tensor([998.5, 400.0, 0.0]).requires_grad_()
    assert torch.autograd.grad(case.loss(grid), grid)[0].isfinite().all()


def test_a_grid_that_is_computed_passes_its_gradient_on():
    schedule = SCHEDULES["linear"]()
    case = Case(schedule, "epsilon", adj.DPMSolverPP(), 0)

    def loss(logits: Tensor) -> Tensor:
        falling = 1 - torch.cat(
            [torch.zeros(1, dtype=torch.float64), torch.softmax(logits, 0).cumsum(0)]
        )
        return case.loss(schedule.t_min + (schedule.t_max - schedule.t_min) * falling.clamp(min=0))

    logits = torch.linspace(0.5, -1.0, 5, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(loss(logits), logits)
    assert relative_error(ours, central_differences(loss, logits.detach(), 1e-4)) < 1e-7


@pytest.mark.parametrize(
    "method",
    [
        adj.Adjoint("solved"),
        adj.Adjoint("stored"),
        adj.Interpolated(3),
        adj.Reversible(),
        adj.Truncated(2),
    ],
)
def test_methods_that_cannot_refuse(method):
    schedule = SCHEDULES["linear"]()
    case = Case(
        schedule,
        "epsilon",
        adj.ReversibleEuler() if isinstance(method, adj.Reversible) else adj.Euler(),
        0,
    )
    grid = adj.grids.karras(schedule, 4).requires_grad_()
    with pytest.raises(adj.errors.UnsupportedError, match="grid"):
        case.loss(grid, method=method)
    with torch.no_grad():
        case.loss(grid, method=method)


class LearnedSchedule(adj.NoiseSchedule):
    t_min, t_max = 0.01, 1.0

    def __init__(self) -> None:
        self.power = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def rho(self, t):
        return 10 * t**self.power

    def time(self, rho):
        return (rho / 10) ** (1 / self.power)


def test_a_schedule_that_is_learned_gets_its_gradient_or_an_error():
    schedule = LearnedSchedule()
    network = Mixture(SCHEDULES["linear"]())
    noise = torch.randn(2, 3, dtype=torch.float64)
    grid = torch.tensor([0.9, 0.4, 0.1, 0.02], dtype=torch.float64)

    def loss(power: Tensor, **options) -> Tensor:
        schedule.power = power
        return (
            adj.sample(network, noise, schedule=schedule, grid=grid, sampler=adj.Heun(), **options)
            .sin()
            .sum()
        )

    (ours,) = torch.autograd.grad(loss(schedule.power), schedule.power)
    power = schedule.power
    assert relative_error(ours, central_differences(loss, power.detach(), 1e-4)) < 1e-8
    for method in (adj.Adjoint(), adj.Interpolated(8)):
        with pytest.raises(adj.errors.UnsupportedError, match="grid"):
            loss(power, gradient=method)


def test_a_single_precision_state_still_gives_the_grid_a_double_gradient():
    case = Case(SCHEDULES["table"](), "epsilon", adj.AdamsBashforth(2), 0)
    grid = inner_grid(case.schedule).requires_grad_()
    (expected,) = torch.autograd.grad(case.loss(grid), grid)
    case.noise, case.cond, case.network = (
        case.noise.float(),
        case.cond.float(),
        case.network.float(),
    )
    (ours,) = torch.autograd.grad(case.loss(grid), grid)
    assert ours.dtype == torch.float64
    assert relative_error(ours, expected) < 1e-3


EXACT: list[tuple[Sampler, list[GradientMethod]]] = [
    (
        adj.Euler(),
        [
            adj.Checkpoint(),
            adj.Backprop(),
            adj.Interpolated(100),
            adj.Adjoint("stored"),
            adj.Truncated(100),
            adj.Auto(0),
        ],
    ),
    (adj.Heun(), [adj.Checkpoint(), adj.Backprop(), adj.Interpolated(100)]),
    (adj.AdamsBashforth(3), [adj.Checkpoint(), adj.Backprop(), adj.Interpolated(100)]),
    (adj.DPMSolverPP(), [adj.Checkpoint(), adj.Backprop(), adj.Interpolated(100)]),
    (adj.Ancestral(seed=2), [adj.Checkpoint(), adj.Backprop(), adj.Interpolated(100)]),
    (
        adj.ReversibleEuler(),
        [adj.Checkpoint(), adj.Backprop(), adj.Interpolated(100), adj.Reversible()],
    ),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", [(), (4,)])
@pytest.mark.parametrize(
    ("sampler", "methods"),
    EXACT,
    ids=lambda value: repr(value) if isinstance(value, Sampler) else "",
)
def test_the_guidance_scales_gradient_equals_finite_differences(sampler, methods, shape, seed):
    case = Case(SCHEDULES["table"](), "epsilon", sampler, seed)
    grid = adj.grids.log_snr(case.schedule, 6)
    scale = 1 + 2 * torch.rand(shape, dtype=torch.float64)
    expected = central_differences(lambda scale: case.loss(grid, scale), scale, 1e-3)
    for method in methods:
        leaf = scale.clone().requires_grad_()
        computed = leaf.log()  # the scale may itself be computed
        for tensor, value in ((leaf, leaf), (computed, computed.exp())):
            (ours,) = torch.autograd.grad(case.loss(grid, value, method), tensor)
            reference = expected if tensor is leaf else expected * scale
            assert relative_error(ours, reference) < 1e-7


@pytest.mark.parametrize("sampler", [None, adj.DPMSolverPP()], ids=repr)
def test_a_pipelines_guidance_scale_equals_finite_differences(sampler, tmp_path):
    pipe = tiny_pipeline(tmp_path)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.double().requires_grad_(False)
    model = adj.from_pipeline(pipe)
    options = {"noise": model.noise(2, seed=0), "steps": 3, "sampler": sampler}

    def loss(scale: float | Tensor) -> Tensor:
        return model.generate("a fox", guidance_scale=scale, **options).square().sum()

    for scale in (torch.tensor(3.0), torch.tensor([0.5, 4.0])):
        leaf = scale.double().requires_grad_()
        assert (
            relative_error(
                torch.autograd.grad(loss(leaf), leaf)[0],
                central_differences(loss, leaf.detach(), 1e-2),
            )
            < 1e-6
        )
    assert torch.allclose(loss(torch.tensor(3.0)), loss(3.0))
    with pytest.raises(adj.errors.ShapeError, match="guidance_scale"):
        loss(torch.ones(3))


def test_the_continuous_adjoint_of_the_guidance_scale_converges():
    case = Case(SCHEDULES["linear"](), "epsilon", adj.RungeKutta4(), 0)
    scale = torch.full((4,), 1.5, dtype=torch.float64, requires_grad=True)
    grid = adj.grids.karras(case.schedule, 60)
    exact, *ours = (
        torch.autograd.grad(case.loss(grid, scale, method), scale)[0]
        for method in ("exact", adj.Adjoint("solved"), adj.Adjoint("stored"))
    )
    assert all(relative_error(gradient, exact) < 1e-3 for gradient in ours)


def test_auto_measures_the_guidance_scales_error():
    case = Case(SCHEDULES["table"](), "epsilon", adj.Euler(), 0)
    grid = adj.grids.karras(case.schedule, 40)
    method = adj.Auto(0.02)
    for shape in ((), (4,)):
        scale = torch.full(shape, 1.5, dtype=torch.float64, requires_grad=True)
        network, case.network = case.network, case.network.requires_grad_(False)
        gradients = [
            torch.autograd.grad(case.loss(grid, scale, method), scale)[0] for _ in range(2)
        ]
        (exact,) = torch.autograd.grad(case.loss(grid, scale), scale)
        assert all(relative_error(gradient, exact) < 0.02 for gradient in gradients)
        assert max(method.choices[network].popitem()[1].errors.values()) > 0


def test_the_picture_does_not_depend_on_how_the_scale_is_given():
    case = Case(SCHEDULES["table"](), "epsilon", adj.Euler(), 0)
    grid = adj.grids.karras(case.schedule, 5)
    scales = [
        2.5,
        torch.tensor(2.5),
        torch.full((4,), 2.5),
        torch.nn.Parameter(torch.tensor(2.5, dtype=torch.float64)),
    ]
    losses = [case.loss(grid, scale).item() for scale in scales]
    assert losses == pytest.approx([losses[0]] * 4, abs=1e-12)


@pytest.mark.parametrize(
    ("scale", "error"),
    [
        (torch.tensor(3), TypeError),
        (torch.tensor(True), TypeError),
        ("high", TypeError),
        (None, TypeError),
        (float("nan"), ValueError),
        (torch.tensor([1.0, float("inf"), 1.0, 1.0]), ValueError),
        (torch.ones(4, 1), adj.errors.ShapeError),
        (torch.ones(3), adj.errors.ShapeError),
    ],
)
def test_impossible_guidance_scales_are_refused(scale, error):
    case = Case(SCHEDULES["table"](), "epsilon", adj.Euler(), 0)
    with pytest.raises(error) as raised:
        case.loss(adj.grids.karras(case.schedule, 2), scale)
    assert isinstance(raised.value, adj.errors.AdjointDPMError)
    assert case.network.calls == 0
