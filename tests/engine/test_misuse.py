"""What could make a gradient silently wrong: every such use is either right or a clear error."""

import warnings

import pytest
import torch

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.samplers import Sampler
from helpers.mixtures import SCHEDULES, Mixture


def name(value: object) -> str:
    return repr(value)


OWN_BACKWARD: list[tuple[Sampler, GradientMethod]] = [
    (adj.Euler(), adj.Interpolated(1000)),
    (adj.Euler(), adj.Interpolated(3)),
    (adj.DPMSolverPP(), adj.Interpolated(1000)),
    (adj.Euler(), adj.Adjoint("solved")),
    (adj.Heun(), adj.Adjoint("stored", steps=3)),
    (adj.ReversibleEuler(), adj.Reversible()),
]


class Traps:
    """A mixture whose inputs and weights require grad, on a grid that every sampler takes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.schedule = SCHEDULES["table"]()
        self.network = Mixture(self.schedule)
        self.noise, self.cond = torch.randn(2, 3, 3, dtype=torch.float64).unbind()
        self.leaves = [self.noise.requires_grad_(), self.cond.requires_grad_(), self.network.means]

    def sample(
        self, sampler: Sampler, method: GradientMethod, denoiser=None, **options
    ) -> torch.Tensor:
        grid = adj.grids.log_snr(self.schedule, 8)
        arguments = {
            "schedule": self.schedule,
            "cond": self.cond,
            "grid": grid,
            "sampler": sampler,
            "gradient": method,
            **options,
        }
        return adj.sample(denoiser or self.network, self.noise, **arguments)


@pytest.mark.parametrize(
    ("sampler", "method"),
    [*OWN_BACKWARD, (adj.Heun(), adj.Checkpoint()), (adj.Euler(), adj.Checkpoint(10**6))],
    ids=name,
)
def test_a_retained_graph_gives_every_backward_pass_the_same_gradient(sampler, method):
    traps = Traps()
    x = traps.sample(sampler, method)
    first, second = (
        torch.autograd.grad(x.sin().sum(), traps.leaves, retain_graph=True) for _ in range(2)
    )
    last = torch.autograd.grad(x.sin().sum(), traps.leaves)
    alone = torch.autograd.grad(traps.sample(sampler, method).sin().sum(), traps.leaves)
    for gradients in (first, second, last):
        assert all(
            torch.equal(ours, expected) for ours, expected in zip(gradients, alone, strict=True)
        )
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(x.sin().sum(), traps.leaves)


@pytest.mark.parametrize(
    "sampler", [adj.Euler(), adj.Heun(), adj.DPMSolverPP(), adj.Ancestral(seed=2)], ids=name
)
def test_second_derivatives_of_the_exact_gradient_equal_finite_differences(sampler):
    traps = Traps()
    direction = torch.randn(3, 3, dtype=torch.float64)

    def loss():
        (gradient,) = torch.autograd.grad(
            traps.sample(sampler, adj.Checkpoint()).sin().sum(), traps.noise, create_graph=True
        )
        return (gradient * direction).sum()

    gradients = torch.autograd.grad(loss(), traps.leaves)
    for tensor, gradient in zip(traps.leaves, gradients, strict=True):
        along = torch.randn_like(tensor)
        along /= along.norm()
        h, ends = 1e-5, []
        for side in (1, -1):
            with torch.no_grad():
                tensor += side * h * along
            ends.append(loss().item())
            with torch.no_grad():
                tensor -= side * h * along
        expected = (ends[0] - ends[1]) / (2 * h)
        assert abs((gradient * along).sum().item() - expected) <= 1e-6 * (
            1 + gradient.norm().item()
        )


@pytest.mark.parametrize(("sampler", "method"), OWN_BACKWARD, ids=name)
def test_second_derivatives_that_a_method_cannot_give_are_refused(sampler, method):
    traps = Traps()
    with pytest.raises(adj.errors.UnsupportedError, match="create_graph"):
        torch.autograd.grad(
            traps.sample(sampler, method).sin().sum(), traps.noise, create_graph=True
        )


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(("sampler", "method"), OWN_BACKWARD, ids=name)
def test_what_is_captured_at_some_times_only_is_not_dropped(sampler, method, wrapped):
    traps = Traps()
    leaf = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for captured in (leaf, leaf.exp()):

        def denoiser(x, t, cond, captured=captured):
            return traps.network(x, t, cond) * (captured if 100 < t[0] < 600 else 1)

        class Module(torch.nn.Module):
            def forward(self, x, t, cond):
                return denoiser(x, t, cond)

        if wrapped and method == adj.Interpolated(3):
            # a module's own parameters are known; what else it uses between the nodes is not seen
            continue
        with pytest.raises(adj.errors.CapturedTensorError):
            traps.sample(sampler, method, Module() if wrapped else denoiser).sum().backward()
        exact = torch.autograd.grad(traps.sample(sampler, adj.Checkpoint(), denoiser).sum(), leaf)[
            0
        ]
        assert exact.norm() > 0


CHANGED = [
    (adj.Euler(), adj.Checkpoint()),
    (adj.DPMSolverPP(), adj.Truncated(4)),
    (adj.Euler(), adj.Auto(1e-9)),
    *OWN_BACKWARD,
]


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize(("sampler", "method"), CHANGED, ids=name)
def test_what_the_backward_pass_runs_again_must_not_have_changed(sampler, method, index):
    traps = Traps()
    x = traps.sample(sampler, method)
    with torch.no_grad():
        traps.leaves[index].add_(0.1)
    with pytest.raises(
        RuntimeError, match=r"changed in place|modified by an inplace operation"
    ) as raised:  # autograd's own words too
        x.sum().backward()
    if index == 2:
        assert isinstance(raised.value, adj.errors.ChangedTensorError)
    # A new sample with the new values is fine.
    assert torch.autograd.grad(traps.sample(sampler, method).sum(), traps.noise)[0].isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        lambda x, cond: x.mul_(0.5),
        lambda x, cond: cond["text"].add_(0.1),
        lambda x, cond: x.zero_(),
    ],
    ids=["x", "cond", "zero"],
)
@pytest.mark.parametrize(
    "method",
    ["exact", "backprop", "adjoint", adj.Interpolated(3), adj.Truncated(2), "auto"],
    ids=name,
)
def test_a_network_that_changes_its_input_is_refused(method, change):
    traps = Traps()
    noise = traps.noise.detach()

    def denoiser(x, t, cond):
        output = traps.network(x, t, cond["text"])
        change(x, cond)
        return output

    cond = {"text": traps.cond.detach()}
    for enabled in (True, False):
        # Where a graph is recorded autograd itself may refuse it, in its own words.
        expected = RuntimeError if enabled else adj.errors.ChangedTensorError
        with (
            torch.set_grad_enabled(enabled),
            pytest.raises(expected, match=r"its input in place|in-place operation"),
        ):
            adj.sample(
                denoiser,
                noise.clone(),
                schedule=traps.schedule,
                cond=cond,
                steps=4,
                gradient=method,
            )


def test_a_network_may_change_what_it_made_itself():
    traps = Traps()
    (exact,) = torch.autograd.grad(traps.sample(adj.Euler(), adj.Backprop()).sum(), traps.noise)
    for method in (adj.Checkpoint(), adj.Interpolated(1000), adj.Adjoint("stored")):
        x = traps.sample(
            adj.Euler(), method, lambda x, t, cond: traps.network(x, t, cond).mul_(2).div_(2)
        )
        torch.testing.assert_close(torch.autograd.grad(x.sum(), traps.noise)[0], exact)


@pytest.mark.parametrize("seen", [0, 1], ids=["x", "denoised"])
@pytest.mark.parametrize("method", ["exact", "backprop", "adjoint", adj.Interpolated(3)], ids=name)
def test_a_callback_that_changes_the_state_is_refused(method, seen):
    traps = Traps()

    def callback(step, t, *tensors):
        with torch.no_grad():
            tensors[seen].mul_(0.9)

    with pytest.raises(adj.errors.ChangedTensorError, match="callback"):
        traps.sample(adj.Euler(), method, callback=callback)


@pytest.mark.parametrize("method", ["exact", "backprop", "adjoint", "auto"])
@pytest.mark.parametrize("who", ["network", "callback"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
            "whether gradients are recorded",
        ),
        (lambda: torch.set_default_dtype(torch.float64), "the default dtype"),
        (lambda: torch.autograd.set_detect_anomaly(True), "the detection of anomalies"),
    ],
    ids=["grad", "dtype", "anomaly"],
)
def test_modes_that_are_left_changed_are_set_back_and_refused(method, who, change, says) -> None:
    schedule = SCHEDULES["linear"]()
    mixture = Mixture(schedule)

    def network(x, t, cond):
        if who == "network":
            change()
        return mixture(x, t, cond)

    def callback(*_: object) -> None:
        change()

    given = {"callback": callback} if who == "callback" else {}
    noise = torch.randn(2, 3, requires_grad=True)
    pattern = rf"the {who} \(.*test_misuse.py, line \d+\) changed {says}"
    before = torch.get_default_dtype()
    with pytest.raises(adj.errors.AdjointDPMError, match=pattern):
        adj.sample(network, noise, schedule=schedule, steps=3, gradient=method, **given)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == before
    assert not torch.is_anomaly_enabled()


@pytest.mark.parametrize("method", ["exact", adj.Interpolated(3)], ids=name)
def test_a_network_may_change_modes_within_itself(method) -> None:
    schedule = SCHEDULES["linear"]()
    mixture = Mixture(schedule)

    def network(x, t, cond):
        with torch.no_grad():
            shift = 0 * x.mean()
        return mixture(x, t, cond) + shift

    noise = torch.randn(2, 3, requires_grad=True)
    found = adj.sample(network, noise, schedule=schedule, steps=3, gradient=method)
    assert torch.autograd.grad(found.sum(), noise)[0].norm() > 0


@pytest.mark.parametrize("method", ["exact", "adjoint", adj.Interpolated(3)], ids=name)
def test_an_observer_that_changes_a_costate_is_refused(method):
    class Observer:
        def __call__(self, step, t, x, denoised): ...

        def backward(self, step, t, costate):
            costate.zero_()

    traps = Traps()
    x = traps.sample(adj.Euler(), method, callback=Observer())
    with pytest.raises(adj.errors.ChangedTensorError, match="callback"):
        x.sum().backward()


def test_null_conditioning_pairs_up_by_name():
    traps = Traps()
    a, b = torch.randn(2, 1, 3, dtype=torch.float64)
    cond = {"a": traps.cond, "b": [2 * traps.cond]}

    def network(x, t, c):
        return traps.network(x, t, c["a"] + 0.3 * c["b"][0])

    pictures = [
        traps.sample(
            adj.Euler(),
            adj.Checkpoint(),
            adj.Denoiser(network, guidance_scale=3.0, null_cond=null),
            cond=cond,
        )
        for null in ({"a": a, "b": [b]}, {"b": [b], "a": a})
    ]
    assert torch.equal(*pictures)
    for null in ({"a": a, "c": [b]}, {"a": a, "b": b}, [a, [b]], {"a": [a], "b": [b]}):
        with pytest.raises(adj.errors.ShapeError, match="same tree"):
            traps.sample(
                adj.Euler(),
                adj.Checkpoint(),
                adj.Denoiser(network, guidance_scale=3.0, null_cond=null),
                cond=cond,
            )


DROPOUT: list[tuple[Sampler, GradientMethod]] = [
    (adj.Euler(), adj.Checkpoint()),
    (adj.Euler(), adj.Adjoint("stored")),
    (adj.Euler(), adj.Interpolated(1000)),
    (adj.DPMSolverPP(), adj.Truncated(1000)),
    (adj.ReversibleEuler(), adj.Reversible()),
]


class Dropout(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [
            torch.nn.Linear(6, 32),
            torch.nn.SiLU(),
            torch.nn.Dropout(0.3),
            torch.nn.Linear(32, 6),
        ]
        self.layers = torch.nn.Sequential(*layers).double()

    def forward(self, x, t, cond):
        return self.layers(x)


def dropout_gradients(
    network: torch.nn.Module, sampler: Sampler, method: GradientMethod
) -> list[torch.Tensor]:
    schedule = adj.NoiseSchedule.linear()
    noise = torch.randn(
        4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    torch.manual_seed(1)
    x = adj.sample(
        network,
        noise,
        schedule=schedule,
        grid=adj.grids.log_snr(schedule, 8),
        sampler=sampler,
        gradient=method,
    )
    torch.manual_seed(2)
    before = torch.get_rng_state()
    found = torch.autograd.grad(x.square().sum(), [noise, *network.parameters()])
    assert torch.equal(torch.get_rng_state(), before)  # the backward pass draws nothing of its own
    return list(found)


@pytest.mark.parametrize(("sampler", "method"), DROPOUT, ids=name)
def test_dropout_is_repeated_in_the_backward_pass(sampler, method):
    network = Dropout()
    exact = dropout_gradients(network, sampler, adj.Backprop())
    for ours, expected in zip(dropout_gradients(network, sampler, method), exact, strict=True):
        assert (ours - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize(
    "method", [adj.Adjoint("solved"), adj.Adjoint("stored", sampler=adj.Heun())], ids=name
)
def test_an_adjoint_of_a_random_network_is_said(method):
    schedule, noise = (
        adj.NoiseSchedule.linear(),
        torch.randn(4, 6, dtype=torch.float64, requires_grad=True),
    )
    with pytest.warns(adj.errors.AdjointDPMWarning, match="draws random numbers"):
        adj.sample(Dropout(), noise, schedule=schedule, steps=4, gradient=method)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adj.sample(Dropout().eval(), noise, schedule=schedule, steps=4, gradient=method)
