"""The cheapest gradient method within a tolerance, measured on the first gradient."""

import logging
import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients.autograd.kept_buffers import unchanged_buffers
from adjointdpm.engine.gradients.autograd.managed_weights import who_manages
from adjointdpm.engine.gradients.base import GradientMethod
from adjointdpm.engine.gradients.checkpoint import Checkpoint
from adjointdpm.engine.gradients.interpolated import Interpolated, Watch
from adjointdpm.engine.numerics import positive
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.stats import add_error_estimate
from adjointdpm.errors import (
    AdjointDPMWarning,
    InvalidInputError,
    InvalidTypeError,
    UnsupportedError,
)

# The numbers of VJPs that are tried, as shares of the network calls. Above about two thirds, exact
# gradients with enough memory cost as little.
SHARES = (0.1, 0.2, 0.4, 0.6)
# A choice is outdated after PATIENCE gradients in a row whose expected error is above DRIFT times
# the tolerance. Samples differ by about that factor, so a single one says little.
DRIFT, PATIENCE = 2.0, 3

_log = logging.getLogger(__name__)


@dataclass
class Choice:
    """What `Auto` decided for one network and kind of problem.

    Attributes:
        method: the method that is used from now on.
        reason: one sentence with the measured errors.
        errors: by method, the largest relative error: over samples for the noise and the
            conditioning, and of all weights together.
        estimate: the method's own estimate of its error at that time, the largest over samples;
            None for exact gradients, and where there is no estimate.
        alarms: how many gradients in a row were expected to be too far off.

    """

    method: GradientMethod
    reason: str
    errors: dict[str, float]
    estimate: float | None = None
    alarms: int = 0

    @property
    def outdated(self) -> bool:
        """Whether the next gradient is measured again."""
        return self.alarms >= PATIENCE

    def expected_error(self, estimate: float) -> float:
        """The error that belongs to `estimate` if the two have kept their ratio, else NaN."""
        error = self.errors.get(repr(self.method), math.nan)
        return error * estimate / self.estimate if self.estimate else math.nan


@dataclass(frozen=True)
class Auto(GradientMethod):
    """The cheapest method whose error, measured on this network and loss, is within a tolerance.

    The first gradient of every kind of problem is exact. A kind is a network, sampler, number of
    calls, range of times, guidance scale, shape, dtype, and what requires grad. When that gradient
    is computed, `Interpolated` is tried with more and more VJPs on the same batch and cotangent,
    until its error is within the tolerance. The method found, or the exact one if none is good
    enough, computes all later gradients. So the first backward pass costs a few times as much. The
    choice and its reason are logged (logger `adjointdpm.engine.gradients.auto`, level INFO) and
    kept in `choices`. The tasks save them in their checkpoints, so that a resumed run goes on with
    them. If several processes choose differently, all use the method with the most VJPs.

    A measurement on one batch is no bound for others. Later gradients come with an estimate of
    their own error (`ErrorEstimate`; not with one VJP a stage). Where it implies more than twice
    the tolerance for three gradients in a row, the next gradient is exact, and larger numbers of
    VJPs are measured on it.

    Gradients that are differentiated again (create_graph) need `Checkpoint()`.

    Args:
        tolerance: largest relative error accepted, 0 or more; 0 always means exact.
        memory_budget: of the exact gradients, as in `Checkpoint`.

    Raises:
        InvalidInputError, InvalidTypeError: the tolerance is not a number of at least 0, or the
            memory budget cannot be used.

    Attributes:
        choices: by network and kind of problem, what was decided, oldest first.

    """

    tolerance: float = 0.01
    memory_budget: int | Literal["auto"] | None = None
    _exact: Checkpoint = field(init=False, repr=False, compare=False)
    # The code of functions that were measured.
    _codes: set[Any] = field(default_factory=set, init=False, repr=False, compare=False)
    choices: WeakKeyDictionary[Any, dict[str, Choice]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if isinstance(self.tolerance, bool) or not isinstance(self.tolerance, int | float):
            raise InvalidTypeError(
                f"Auto(tolerance={self.tolerance!r}) must be a number, the relative error that is "
                f"accepted"
            )
        if not 0 <= self.tolerance < math.inf:
            raise InvalidInputError(
                f"Auto(tolerance={self.tolerance!r}) must be at least 0; 0 means exact"
            )
        object.__setattr__(self, "_exact", Checkpoint(memory_budget=self.memory_budget))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles start without choices."""
        return type(self), (self.tolerance, self.memory_budget)

    @property
    def exact(self) -> Checkpoint:
        """The exact method, with the same memory budget."""
        return self._exact

    def decisions(self, network: Any) -> dict[str, dict[str, Any]]:
        """The choices for `network` in a form that JSON can hold and `decide` takes."""
        return {
            kind: {
                "vjps": choice.method.vjps if isinstance(choice.method, Interpolated) else None,
                "reason": choice.reason,
                "errors": choice.errors,
                "estimate": choice.estimate,
                "alarms": choice.alarms,
            }
            for kind, choice in self.choices.get(network, {}).items()
        }

    def decide(self, network: Any, decisions: dict[str, dict[str, Any]]) -> None:
        """Replace the choices for `network` by those of another process or an earlier session."""
        before, known = self.choices.get(network, {}), {}
        for kind, facts in decisions.items():
            vjps = facts["vjps"]
            known[kind] = choice = Choice(
                self.exact if vjps is None else Interpolated(vjps),
                facts["reason"],
                facts["errors"],
                facts["estimate"],
                facts["alarms"],
            )
            if kind not in before or before[kind].method != choice.method:
                _log.info("as decided before, or in another process: %s", choice.reason)
        self.choices[network] = known

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Solve with the method chosen for this kind of problem.

        While there is none, solve exactly, and measure when the gradient comes.
        """
        managed = who_manages(problem.denoiser) is not None  # then only exact methods work
        if self.tolerance == 0 or problem.plan.requires_grad or managed:
            return self.exact.solve(problem)
        network = problem.denoiser.network
        owner = getattr(network, "__self__", network)
        try:
            known = self.choices.setdefault(owner, {})
        except TypeError as error:
            _log.info(
                "exact gradients: nothing can be remembered of %s (%s)",
                type(network).__name__,
                error,
            )
            return self.exact.solve(problem)
        kind = _kind(problem)
        choice = known.get(kind)
        if choice is not None and not choice.outdated:
            return self._use(choice, problem)
        pilot = replace(problem.detached(), callback=None)
        result = self.exact.solve(problem)
        # Not under no_grad, and not if only what the network captures requires grad.
        if result.requires_grad and any(tensor.requires_grad for tensor in _inputs(problem)):
            device = result.device.type
            autocast = torch.autocast(
                device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
            )

            def measure(cotangent: Tensor) -> None:
                known = self.choices.setdefault(owner, {})
                useful = bool(cotangent.isfinite().all()) and bool(cotangent.any())
                # Another solve may have been measured since.
                if useful and (kind not in known or known[kind].outdated):
                    self._warn_of_new_functions(network, known)
                    method = known[kind].method if kind in known else None
                    above = method.vjps if isinstance(method, Interpolated) else 0
                    with autocast:
                        known[kind] = self._choose(pilot, cotangent, above)

            result.register_hook(measure)
        return result

    def _use(self, choice: Choice, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Solve with what was chosen, and count gradients that are expected to be too far off."""
        method = choice.method
        if not isinstance(method, Interpolated):
            return method.solve(problem)

        def watch(estimate: Tensor) -> None:
            add_error_estimate(estimate)
            error = choice.expected_error(float(estimate.nan_to_num(0.0).max()))
            if choice.outdated:
                return
            choice.alarms = choice.alarms + 1 if error > DRIFT * self.tolerance else 0
            if choice.outdated:
                _log.info(
                    "%r seems to be off by %.2g now, more than %g: it is measured again",
                    method,
                    error,
                    self.tolerance,
                )

        return method.solve(problem, watch)

    def _warn_of_new_functions(self, network: Any, known: dict[str, Choice]) -> None:
        code = getattr(network, "__code__", None)
        if code is not None and not known and code in self._codes:
            warnings.warn(
                "what Auto measures is remembered by network, and this function is made anew for "
                "every sample: it is measured each time, which costs more than exact gradients; "
                "make it once, or use an nn.Module",
                AdjointDPMWarning,
                stacklevel=2,
            )
        self._codes.add(code)

    def _choose(self, problem: Problem, cotangent: Tensor, above: int) -> Choice:
        """Measure methods with more than `above` VJPs until one is within the tolerance."""
        choice = self._measure(problem, cotangent, above)
        _log.info(
            "%s, %d network calls: %s",
            type(problem.sampler).__name__,
            problem.plan.calls,
            choice.reason,
        )
        return choice

    def _measure(self, problem: Problem, cotangent: Tensor, above: int) -> Choice:
        exact = _gradients(problem, self.exact, cotangent)
        errors: dict[str, float] = {}
        counts = dict.fromkeys(math.ceil(share * problem.plan.calls) for share in SHARES)
        for method in (Interpolated(vjps) for vjps in counts if vjps > above):
            estimates: list[Tensor] = []
            try:
                found = _gradients(problem, method, cotangent, estimates.append)
            except UnsupportedError as refusal:
                reason = f"exact gradients, because few-VJP ones are refused here: {refusal}"
                return Choice(self.exact, reason, errors)
            error = errors[repr(method)] = _error(found, exact)
            if error <= self.tolerance:
                estimate = float(estimates[0].max())
                reason = f"{method!r}: its error of {error:.2g} is within {self.tolerance:g}"
                finite = math.isfinite(estimate)
                return Choice(method, reason, errors, estimate if finite else None)
        measured = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
        return Choice(
            self.exact,
            f"exact gradients: no cheaper method is within {self.tolerance:g} ({measured})",
            errors,
        )


def _inputs(problem: Problem) -> list[Tensor]:
    """What belongs to samples, then the weights."""
    return [problem.start, *problem.inputs, *problem.denoiser.parameters()]


def _kind(problem: Problem) -> str:
    """What a choice is remembered by, as a text, which a checkpoint can hold."""
    grid, scale, start = problem.plan.grid, problem.guidance_scale, problem.start
    return repr(
        (
            getattr(problem.denoiser.network, "training", False),
            repr(problem.sampler),
            problem.plan.calls,
            # One digit, since a grid may be jittered from call to call.
            tuple(f"{grid[i].item():.1g}" for i in (0, len(grid) // 2, -1)),
            problem.denoiser.prediction,
            None if isinstance(scale, Tensor) else scale,  # a tensor may be what is learned
            start.shape[1:],
            start.dtype,
            torch.is_autocast_enabled(start.device.type),
            tuple(tensor.requires_grad for tensor in _inputs(problem)),
        )
    )


def _gradients(
    problem: Problem, method: GradientMethod, cotangent: Tensor, watch: Watch | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients for what belongs to samples, and for weights; None counts as no gradient."""
    problem = problem.detached()
    samples = [t for t in (problem.start, *problem.inputs) if t.requires_grad]
    weights = [p for p in problem.denoiser.parameters() if p.requires_grad]
    devices = [cotangent.device] if cotangent.is_cuda else []
    rng = torch.random.fork_rng(devices=devices)
    with torch.enable_grad(), rng, unchanged_buffers(problem.denoiser):
        torch.default_generator.manual_seed(0)  # the same dropout for every method
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        x = (
            method.solve(problem, watch)
            if isinstance(method, Interpolated)
            else method.solve(problem)
        )
        found = torch.autograd.grad(x, [*samples, *weights], cotangent, materialize_grads=True)
    return list(found[: len(samples)]), list(found[len(samples) :])


def _error(
    ours: tuple[list[Tensor], list[Tensor]], exact: tuple[list[Tensor], list[Tensor]]
) -> float:
    """The largest relative error: of a sample's gradient for one input, or of all weights'."""
    errors = [
        float(((a - b).norm(dim=1) / positive(b.norm(dim=1))).max())
        for a, b in zip(_rows(*ours), _rows(*exact), strict=True)
    ]
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


def _rows(samples: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Matrices whose rows are compared by length: one a sample, and one row for all weights."""
    rows = [g.reshape(len(g) if g.ndim else 1, -1) for g in samples]
    return [*rows, torch.cat([g.flatten() for g in weights])[None]] if weights else rows
