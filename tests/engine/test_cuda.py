"""On a GPU: the CPU's gradients, in the memory promised, without waiting at every step."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.gradients.checkpoint import graph_bytes
from adjointdpm.metrics import resolve
from helpers.mixtures import relative_error

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SCHEDULE = adj.NoiseSchedule.linear()
METHODS = [
    adj.Backprop(),
    adj.Checkpoint(),
    adj.Checkpoint(memory_budget="auto"),
    adj.Checkpoint(memory_budget=10**6),
    adj.Interpolated(3),
    adj.Adjoint("solved", adj.Heun()),
    adj.Adjoint("stored", adj.Midpoint()),
    adj.Adjoint("stored", adj.Euler()),
    adj.Truncated(2),
]


@pytest.fixture(autouse=True)
def full_precision():
    """Matrix products and convolutions in float32 proper."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


class Network(nn.Module):
    def __init__(self, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        y = self.last(self.layers(x) * (1 + 0.1 * torch.sin(t)[:, None, None, None]).to(x.dtype))
        return y + cond[:, :, None, None] * y.tanh()


def gradients(
    network: nn.Module,
    method: GradientMethod,
    device: str,
    dtype: torch.dtype,
    sampler=None,
    guidance=3.0,
    steps=8,
    seed=0,
) -> list[Tensor]:
    """x_0 and the gradients for noise, conditioning and weights, in float64 on the processor."""
    generator = torch.Generator().manual_seed(seed)
    noise, cond = (
        torch.randn(2, 3, 8, 8, generator=generator),
        torch.randn(2, 3, generator=generator),
    )
    noise, cond = (tensor.to(device, dtype).requires_grad_() for tensor in (noise, cond))
    denoiser = adj.Denoiser(
        network, guidance_scale=guidance, null_cond=torch.zeros(1, 3, device=device, dtype=dtype)
    )
    x = adj.sample(
        denoiser,
        noise,
        schedule=SCHEDULE,
        cond=cond,
        steps=steps,
        sampler=sampler or adj.DPMSolverPP(),
        gradient=method,
    )
    loss = 1e-4 * x.square().sum()  # float16 holds 65504 at most
    found = torch.autograd.grad(loss, [noise, cond, *network.parameters()])
    return [tensor.detach().cpu().double() for tensor in (x, *found)]


def networks(seed: int = 0, **options) -> tuple[nn.Module, nn.Module]:
    """The same network twice: float64 on the processor, float32 on the GPU."""
    torch.manual_seed(seed)
    network = Network(**options)
    other = Network(**options)
    other.load_state_dict(network.state_dict())
    return network.double(), other.cuda()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_gradients_are_those_of_the_processor(method, guidance):
    for seed in range(3):
        there, here = networks(seed)
        expected = gradients(there, method, "cpu", torch.float64, guidance=guidance, seed=seed)
        found = gradients(here, method, "cuda", torch.float32, guidance=guidance, seed=seed)
        assert all(relative_error(a, b) < 2e-4 for a, b in zip(found, expected, strict=True))


def test_reversible_gradients_are_those_of_the_processor():
    there, here = networks()
    sampler = adj.ReversibleEuler()
    expected = gradients(there, adj.Reversible(), "cpu", torch.float64, sampler)
    found = gradients(here, adj.Reversible(), "cuda", torch.float32, sampler)
    assert all(relative_error(a, b) < 2e-4 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_network_in_half_precision(method, dtype):
    there, here = networks()
    here.to(dtype)
    expected = gradients(there, method, "cpu", torch.float64)
    found = gradients(here, method, "cuda", torch.float32)
    assert all(
        relative_error(a, b) < (0.1 if dtype == torch.bfloat16 else 0.02)
        for a, b in zip(found, expected, strict=True)
    )


@pytest.mark.parametrize(
    "method", [adj.Checkpoint(), adj.Interpolated(8), adj.Adjoint("stored")], ids=repr
)
def test_autocast(method):
    _, here = networks()
    expected = gradients(here, method, "cuda", torch.float32, adj.Euler())
    with torch.autocast("cuda", torch.bfloat16):
        found = gradients(here, method, "cuda", torch.float32, adj.Euler())
    assert all(relative_error(a, b) < 0.1 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "method", [adj.Checkpoint(), adj.Interpolated(8), adj.Adjoint("stored", adj.Euler())], ids=repr
)
def test_dropout_is_drawn_again(method):
    _, here = networks(dropout=0.3)
    here.train()
    found = []
    for same in (adj.Backprop(), method):
        torch.manual_seed(7)
        found.append(gradients(here, same, "cuda", torch.float32, adj.Euler()))
        after = torch.rand((), device="cuda").item()
        found[-1].append(torch.tensor(after))
    assert all(relative_error(a, b) < 2e-4 for a, b in zip(*found, strict=True))


def peak(method: GradientMethod, steps: int, width: int = 64) -> tuple[int, int]:
    """Peak bytes of sampling and the noise's gradient, and bytes of one network call's graph."""
    torch.manual_seed(0)
    network = Network(width).cuda().requires_grad_(False)
    noise = torch.randn(8, 3, 64, 64, device="cuda", requires_grad=True)
    cond = torch.zeros(8, 3, device="cuda")

    def solve() -> None:
        x = adj.sample(network, noise, schedule=SCHEDULE, cond=cond, steps=steps, gradient=method)
        torch.autograd.grad(x.square().sum(), noise)

    solve()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    solve()
    t = torch.ones(8, device="cuda")
    used = torch.cuda.max_memory_allocated() - before
    graph = graph_bytes(network, noise, t, cond)
    return used, graph


@pytest.mark.parametrize("method", [adj.Checkpoint(), adj.Interpolated(4)], ids=repr)
def test_memory_is_that_of_one_network_call(method):
    few, graph = peak(method, 10)
    many, _ = peak(method, 40)
    state = 8 * 3 * 64 * 64 * 4
    assert many - few < 4 * 30 * state
    full, _ = peak(adj.Backprop(), 40)
    assert full - many > 0.8 * 38 * graph - 4 * 40 * state


@pytest.mark.parametrize("graphs", [3, 9])
def test_a_memory_budget_is_kept(graphs):
    one, graph = peak(adj.Checkpoint(), 20)
    some, _ = peak(adj.Checkpoint(memory_budget=int((graphs + 0.2) * graph)), 20)
    assert abs(some - one - (graphs - 1) * graph) < 0.1 * graphs * graph


@pytest.mark.parametrize(
    "method", [m for m in METHODS if m != adj.Checkpoint(memory_budget="auto")], ids=repr
)
def test_no_step_waits_for_the_gpu(method):
    """Waiting lets the GPU run dry: the number of waits must not grow with the steps."""
    _, here = networks()

    def waits(steps: int) -> int:
        noise = torch.randn(2, 3, 8, 8, device="cuda", requires_grad=True)
        cond = torch.zeros(2, 3, device="cuda", requires_grad=True)
        denoiser = adj.Denoiser(
            here, guidance_scale=3.0, null_cond=torch.zeros(1, 3, device="cuda")
        )
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                x = adj.sample(
                    denoiser, noise, schedule=SCHEDULE, cond=cond, steps=steps, gradient=method
                )
                torch.autograd.grad(x.square().sum(), [noise, cond, *here.parameters()])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    waits(6)
    assert waits(24) <= waits(8) + 2


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize(
    ("method", "sampler"),
    [
        (adj.Checkpoint(), adj.Euler()),
        (adj.Checkpoint(), adj.AdamsBashforth(3)),
        (adj.Checkpoint(memory_budget=10**6), adj.DPMSolverPP()),
        (adj.Interpolated(3), adj.DPMSolverPP()),
        (adj.Adjoint("solved", adj.Heun()), adj.Heun()),
        (adj.Adjoint("stored"), adj.Euler()),
        (adj.Reversible(), adj.ReversibleEuler()),
        (adj.Truncated(2), adj.Heun()),
    ],
    ids=repr,
)
def test_a_compiled_network(method, sampler, mode, guidance):
    """CUDA graphs ("reduce-overhead") overwrite the outputs and gradients of earlier calls."""
    torch._dynamo.reset()
    _, here = networks()
    compiled = torch.compile(here, mode=mode, fullgraph=True)
    assert isinstance(compiled, nn.Module)
    expected = gradients(here, method, "cuda", torch.float32, sampler, guidance)
    for _ in range(3):  # warm-up, recording, replay
        found = gradients(compiled, method, "cuda", torch.float32, sampler, guidance)
        assert all(relative_error(a, b) < 2e-4 for a, b in zip(found, expected, strict=True))


def test_the_bundled_model_gives_the_gradients_of_the_processor():
    found = []
    for device in ("cpu", "cuda"):
        model = adj.load("tiny")
        model.pipe.to(device)
        noise = model.noise(1, seed=5).requires_grad_()
        pictures = model.generate("a noto emoji of a fox", noise, steps=6, guidance_scale=5.0)
        loss = resolve("color:mood=dusk")(pictures).sum()
        found.append(
            [tensor.detach().cpu() for tensor in (pictures, *torch.autograd.grad(loss, noise))]
        )
    assert all(relative_error(a, b) < 1e-3 for a, b in zip(*found, strict=True))
