"""`sample`: its contract, what it costs, and what it refuses."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

import adjointdpm as adj
from adjointdpm.engine.gradients import resolve
from adjointdpm.engine.gradients.checkpoint import graph_bytes
from helpers.mixtures import SCHEDULES, Mixture, relative_error

LINEAR = adj.NoiseSchedule.linear()


class Convolutions(torch.nn.Module):
    """A small network with weights, counting its calls."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, width, 3, padding=1),
            torch.nn.SiLU(),
            torch.nn.Conv2d(width, 3, 3, padding=1),
        )
        self.calls = 0

    def forward(self, x, t, cond):
        self.calls += 1
        y = self.layers(x) + 0.1 * t[:, None, None, None]
        return y if cond is None else y + cond[:, :, None, None]


def images(batch: int = 2, **options) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0), **options)


def test_no_grad_is_plain_sampling():
    network, noise = Convolutions(), images().requires_grad_()
    with torch.no_grad():
        for method in ("exact", "backprop", "adjoint", adj.Truncated(2)):
            network.calls = 0
            x = adj.sample(network, noise, schedule=LINEAR, steps=5, gradient=method)
            assert not x.requires_grad
            assert network.calls == 5


@pytest.mark.parametrize(
    "method", ["exact", "backprop", "adjoint", adj.Adjoint("stored"), adj.Truncated(2)]
)
def test_all_methods_make_the_same_picture_in_the_noises_dtype_and_shape(method):
    network, noise = Convolutions(), images().requires_grad_()
    expected = adj.sample(network, noise, schedule=LINEAR, steps=5, gradient="backprop")
    x = adj.sample(network, noise, schedule=LINEAR, steps=5, gradient=method)
    assert (x.shape, x.dtype, x.device) == (noise.shape, noise.dtype, noise.device)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("method", ["exact", "adjoint", adj.Adjoint("stored")])
def test_what_needs_no_gradient_costs_none(method):
    network = Convolutions().requires_grad_(False)
    adj.sample(network, images(), schedule=LINEAR, steps=6, gradient=method)
    assert network.calls == 6
    network.calls = 0
    noise = images().requires_grad_()
    adj.sample(network, noise, schedule=LINEAR, steps=6, gradient=method).sum().backward()
    assert network.calls <= 12
    assert all(p.grad is None for p in network.parameters())


def test_only_the_conditionings_gradient_stops_before_the_noise():
    network, noise = Convolutions().requires_grad_(False), images()
    cond = torch.zeros(2, 3, requires_grad=True)
    x, y = (
        adj.sample(network, noise, schedule=LINEAR, cond=cond, steps=6, gradient=g)
        for g in (adj.Backprop(), adj.Adjoint("stored"))
    )
    expected, ours = (torch.autograd.grad(z.square().sum(), cond)[0] for z in (x, y))
    assert relative_error(ours, expected) < 1e-5
    assert noise.grad is None


@pytest.mark.parametrize("method", ["exact", "adjoint", adj.Adjoint("stored")])
def test_weights_outside_the_graph_get_no_gradient(method):
    network = Convolutions()
    network.unused = torch.nn.Parameter(torch.zeros(3))
    adj.sample(network, images(), schedule=LINEAR, steps=3, gradient=method).sum().backward()
    assert network.unused.grad is None
    assert all(p.grad is not None for p in network.layers.parameters())


def test_callback_sees_every_step():
    seen = []
    grid = adj.grids.karras(LINEAR, 4)
    x = adj.sample(
        Convolutions(),
        images(),
        schedule=LINEAR,
        grid=grid,
        callback=lambda step, t, x, denoised: seen.append((step, t, x, denoised)),
    )
    assert [s[0] for s in seen] == [0, 1, 2, 3]
    assert [s[1] for s in seen] == grid[1:].tolist()
    assert seen[-1][2] is x
    assert all(s[3].shape == x.shape for s in seen)


def test_edm_starts_at_sigma_max():
    schedule = SCHEDULES["edm"]()
    noise = torch.randn(1, 2, dtype=torch.float64)
    x = adj.sample(lambda x, t, c: torch.zeros_like(x), noise, schedule=schedule, steps=3)
    assert torch.allclose(x, schedule.t_max * noise)


def test_time_reaches_the_network_as_a_float_batch_in_the_schedules_unit():
    seen = []

    def network(x, t, c):
        seen.append(t)
        return torch.zeros_like(x)

    schedule = SCHEDULES["table"]()
    adj.sample(
        network, images(dtype=torch.bfloat16), schedule=schedule, grid=torch.tensor([999, 500, 0])
    )
    assert [t.tolist() for t in seen] == [[999.0, 999.0], [500.0, 500.0]]
    assert all(t.dtype == torch.float32 for t in seen)


def test_guidance_is_one_batched_call_and_the_usual_formula():
    torch.manual_seed(0)
    schedule = SCHEDULES["table"]()
    network = Mixture(schedule)
    x, cond, null = torch.randn(3, 4, 3, dtype=torch.float64)
    t = torch.full((4,), 300.0, dtype=torch.float64)
    expected = network(x, t, null) + 5 * (network(x, t, cond) - network(x, t, null))
    network.calls = 0
    assert torch.allclose(
        adj.Denoiser(network, guidance_scale=5.0, null_cond=null)(x, t, cond), expected
    )
    assert network.calls == 1


def test_a_memory_budget_keeps_as_many_graphs_as_it_says():
    network, noise = Convolutions(64), images(4).requires_grad_()
    x, t = noise.detach(), torch.zeros(4)
    graph = graph_bytes(adj.Denoiser(network), x, t, None, None)
    assert graph >= 2 * 4 * 64 * 8 * 8 * 4  # SiLU's input and output at least
    for kept in (1, 3, 10):
        method = adj.Checkpoint(memory_budget=kept * graph)
        network.calls = 0
        adj.sample(network, noise, schedule=LINEAR, steps=10, gradient=method).sum().backward()
        assert network.calls == 10 + (10 - kept) + 1  # and one call to measure a graph
        network.calls = 0
        adj.sample(network, noise, schedule=LINEAR, steps=10, gradient=method).sum().backward()
        assert network.calls in (20 - kept, 21 - kept)


def test_the_bytes_of_a_graph_are_those_of_what_its_nodes_save():
    layers = 6

    def network(x, t, cond):
        for _ in range(layers):
            x = torch.sigmoid(
                x
                # It saves its output, as attention's softmax does: what a hook returns must not
                # keep the graph alive.
            )
        return x

    x = images(16)
    assert graph_bytes(network, x, torch.zeros(16), None) == layers * x.numel() * x.element_size()


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (adj.Backprop(), 7),
        (adj.Checkpoint(), 1),
        (adj.Adjoint("solved"), 1),
        (adj.Adjoint("stored"), 1),
        (adj.Truncated(3), 1),
    ],
    ids=repr,
)
def test_one_network_graph_is_alive_at_a_time(method, most):
    activations: list[StorageWeakRef] = []
    alive = []

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = Convolutions().layers

        def forward(self, x, t, cond):
            inner = self.layers[0](x)
            activations.append(StorageWeakRef(inner.untyped_storage()))
            alive.append(sum(not activation.expired() for activation in activations))
            return self.layers[2](self.layers[1](inner))

    adj.sample(
        Network(), images().requires_grad_(), schedule=LINEAR, steps=7, gradient=method
    ).sum().backward()
    assert max(alive) == most


@pytest.mark.parametrize(
    "bad",
    [
        dict(memory_budget=0),
        dict(memory_budget="much"),
        dict(memory_budget=1.5),
        dict(memory_budget=True),
    ],
)
def test_impossible_budgets_are_refused(bad):
    with pytest.raises(adj.errors.AdjointDPMError):
        adj.Checkpoint(**bad)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (dict(noise=torch.zeros(2, 3, 8, 8, dtype=torch.long)), TypeError),
        (dict(noise=[[0.0]]), TypeError),
        (dict(noise=torch.tensor(1.0)), ValueError),
        (dict(noise=torch.zeros(0, 3, 8, 8)), ValueError),
        (dict(noise=torch.full((2, 3, 8, 8), float("nan"))), ValueError),
        (dict(noise=torch.full((2, 3, 8, 8), float("inf"))), ValueError),
        (dict(noise=torch.zeros(2, 3, 8, 8, device="meta")), adj.errors.DeviceError),
        (
            dict(noise=torch.zeros(2, 3, 8, 8, device="meta"), denoiser=lambda x, t, c: x),
            adj.errors.DeviceError,
        ),
        (dict(noise=torch.zeros(2, 3, 8, 8).to_sparse()), TypeError),
        (dict(callback=3), TypeError),
        (dict(cond=torch.zeros(3, 3)), adj.errors.ShapeError),
        (dict(cond={"a": [torch.zeros(2, 3), torch.zeros(1, 3)]}), adj.errors.ShapeError),
        (dict(cond=torch.zeros(2, 3, device="meta")), adj.errors.DeviceError),
        (dict(cond="a prompt"), TypeError),
        (dict(cond=[1, 2]), TypeError),
        (dict(cond={"a": [torch.zeros(2, 3), "x"]}), TypeError),
        (dict(cond=torch.zeros(3, 3).numpy()), TypeError),
        (dict(denoiser=torch.nn.Linear(8, 8)), TypeError),
        (dict(denoiser=lambda x: x), TypeError),
        (dict(steps=0), ValueError),
        (dict(steps=2.0), TypeError),
        (dict(steps=True), TypeError),
        (dict(grid=torch.tensor([0.1, 0.5])), adj.errors.GridError),
        (dict(grid=torch.tensor([2.0, 0.5])), adj.errors.GridError),
        (dict(schedule="linear"), TypeError),
        (dict(sampler="eular"), adj.errors.UnknownNameError),
        (dict(gradient="exakt"), adj.errors.UnknownNameError),
        (dict(gradient=3), TypeError),
        (dict(denoiser=3), TypeError),
        (dict(schedule=adj.NoiseSchedule.flow_matching()), adj.errors.ScheduleError),
        (dict(gradient="adjoint", sampler=adj.DPMSolverPP()), adj.errors.UnsupportedError),
        (dict(gradient="adjoint", sampler=adj.Ancestral()), adj.errors.UnsupportedError),
    ],
)
def test_bad_input_is_refused_before_the_network_is_called(changes, error):
    network = Convolutions()
    arguments = dict(denoiser=network, noise=images(), schedule=LINEAR, cond=None) | changes
    with pytest.raises(error) as raised:
        adj.sample(arguments.pop("denoiser"), arguments.pop("noise"), **arguments)
    assert isinstance(raised.value, adj.errors.AdjointDPMError)
    assert network.calls == 0


def test_zero_terminal_snr_with_epsilon_is_refused():
    import diffusers

    schedule = adj.NoiseSchedule.from_scheduler(
        diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    )
    with pytest.raises(adj.errors.ScheduleError, match="zero terminal SNR"):
        adj.sample(Convolutions(), images(), schedule=schedule)


@pytest.mark.parametrize("sampler", [adj.Heun(), adj.RungeKutta4()])
def test_a_predicted_sample_at_no_noise_is_refused(sampler):
    network = adj.Denoiser(Convolutions(), "sample")
    with pytest.raises(adj.errors.ScheduleError, match="no noise left"):
        adj.sample(network, images(), schedule=adj.NoiseSchedule.flow_matching(), sampler=sampler)
    with pytest.raises(adj.errors.ScheduleError, match="no noise left"):
        adj.sample(
            network, images(), schedule=adj.NoiseSchedule.flow_matching(), gradient="adjoint"
        )


@pytest.mark.parametrize(
    "network",
    [
        lambda x, t, c: x[:1],
        lambda x, t, c: (x,),
        lambda x, t, c: x.long(),
        lambda x, t, c: x.mean(1, keepdim=True),
    ],
)
def test_networks_that_return_something_else_are_refused(network):
    with pytest.raises(adj.errors.NetworkOutputError):
        adj.sample(network, images(), schedule=LINEAR)


@pytest.mark.parametrize(
    "make",
    [
        lambda: adj.Denoiser(Convolutions(), "x0"),  # type: ignore[arg-type]
        lambda: adj.Denoiser(Convolutions(), guidance_scale=5.0),
        lambda: adj.Denoiser(Convolutions(), guidance_scale=5.0, null_cond=["a prompt"]),
        lambda: adj.Denoiser(
            Convolutions(), guidance_scale=float("nan"), null_cond=torch.zeros(1, 3)
        ),
        lambda: adj.Adjoint("kept"),  # type: ignore[arg-type]
        lambda: adj.Adjoint(sampler=adj.DPMSolverPP()),
        lambda: adj.Adjoint(steps=0),
        lambda: adj.Truncated(0),
        lambda: resolve("truncated"),
    ],
)
def test_impossible_choices_are_refused(make):
    with pytest.raises(adj.errors.AdjointDPMError):
        make()


def test_null_conditioning_must_fit():
    denoiser = adj.Denoiser(Convolutions(), guidance_scale=2.0, null_cond=torch.zeros(1, 4))
    with pytest.raises(adj.errors.ShapeError, match="null_cond"):
        adj.sample(denoiser, images(), schedule=LINEAR, cond=torch.zeros(2, 3))
    with pytest.raises(adj.errors.ShapeError, match="null_cond"):
        adj.sample(denoiser, images(), schedule=LINEAR)
