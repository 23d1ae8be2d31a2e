"""Compiled networks: the same gradients, one graph, no recompilation from step to step."""

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from helpers.mixtures import relative_error
from helpers.tiny_pipelines import tiny_pipeline

dynamo = pytest.importorskip("torch._dynamo")
testing = pytest.importorskip("torch._dynamo.testing")
pytestmark = pytest.mark.skipif(
    not dynamo.is_dynamo_supported(), reason="torch.compile does not run on this platform"
)
SCHEDULE = adj.NoiseSchedule.linear()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1)
        )

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        y = self.layers(x) + 0.1 * torch.sin(t)[:, None, None, None]
        return y + cond[:, :, None, None] * y.tanh()


@pytest.fixture
def counter():
    """A backend that traces both passes, needs no compiler, and counts the graphs it is given."""
    dynamo.reset()
    yield testing.CompileCounterWithBackend("aot_eager")
    dynamo.reset()


def gradients(
    network: nn.Module, module: nn.Module, method, steps: int, guidance: float
) -> tuple[Tensor, ...]:
    noise, cond = (
        torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.linspace(-1, 1, 6).view(2, 3),
    )
    leaves = [noise.requires_grad_(), cond.requires_grad_(), *module.parameters()]
    denoiser = adj.Denoiser(network, guidance_scale=guidance, null_cond=torch.zeros(1, 3))
    x = adj.sample(denoiser, noise, schedule=SCHEDULE, cond=cond, steps=steps, gradient=method)
    return torch.autograd.grad(x.square().sum(), leaves)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    ("method", "graphs"),
    # Methods that sample without a graph need one for each of the two modes.
    [
        (adj.Checkpoint(), 1),
        (adj.Backprop(), 1),
        (adj.Adjoint("solved"), 2),
        (adj.Adjoint("stored"), 2),
        (adj.Interpolated(3), 2),
    ],
    ids=repr,
)
def test_gradients_are_the_same_and_steps_do_not_recompile(method, graphs, guidance, counter):
    torch.manual_seed(0)
    module = Network()
    network = torch.compile(module, backend=counter, fullgraph=True)
    assert isinstance(network, nn.Module)
    for steps in (5, 12):
        ours, expected = (gradients(n, module, method, steps, guidance) for n in (network, module))
        assert all(relative_error(a, b) < 1e-5 for a, b in zip(ours, expected, strict=True))
        assert counter.frame_count == graphs


def test_counting_costs_does_not_recompile(counter):
    module = Network()
    network = torch.compile(module, backend=counter, fullgraph=True)
    assert isinstance(network, nn.Module)
    with adj.stats() as counts:
        for steps in (4, 7):
            gradients(network, module, adj.Checkpoint(), steps, 3.0)
    assert (counts.network_calls, counts.vjps) == (4 + 3 + 7 + 6, 4 + 7)
    assert counts.peak_bytes_held > 0
    assert counter.frame_count == 1


@pytest.mark.slow
def test_a_pipeline_with_a_compiled_network(counter, tmp_path):
    model = adj.from_pipeline(tiny_pipeline(tmp_path))
    model.pipe.unet.requires_grad_(False)

    def gradient(steps: int) -> Tensor:
        noise = model.noise(1, seed=0).requires_grad_()
        pictures = model.generate("a fox", noise, steps=steps, guidance_scale=4.0)
        return torch.autograd.grad(pictures.square().sum(), noise)[0]

    expected = [gradient(steps) for steps in (2, 5)]
    model.pipe.unet.compile(backend=counter, fullgraph=True)
    for steps, reference in zip((2, 5), expected, strict=True):
        assert relative_error(gradient(steps), reference) < 1e-4
        assert counter.frame_count == 1


def test_what_is_compiled_is_the_network_and_not_the_denoiser():
    denoiser = adj.Denoiser(Network(), "v_prediction")
    with pytest.raises(adj.errors.InvalidTypeError, match="compile what it holds"):
        adj.sample(
            torch.compile(denoiser, backend="eager"),
            torch.randn(1, 3, 8, 8),
            schedule=SCHEDULE,
            steps=2,
        )
