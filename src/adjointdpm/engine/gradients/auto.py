"""The cheapest gradient method within a tolerance, found by measuring on the first gradient that is
asked for.
"""

import logging
import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients.base import GradientMethod
from adjointdpm.engine.gradients.checkpoint import Checkpoint
from adjointdpm.engine.gradients.interpolated import Interpolated, Watch
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.stats import add_error_estimate
from adjointdpm.errors import (
    AdjointDPMWarning,
    InvalidInputError,
    InvalidTypeError,
    UnsupportedError,
)

# VJPs that are tried, as shares of the network calls. Above about two thirds, exact gradients with
# enough memory are as cheap.
SHARES = (0.1, 0.2, 0.4, 0.6)
# It is measured again where the error is foretold to be this many times the tolerance, in so many
# gradients one after the other: samples differ by about as much.
DRIFT, PATIENCE = 2.0, 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """What `Auto` decided for one network and kind of problem.

    Args:
        method: what is used from now on.
        reason: one sentence with the measured errors.
        errors: by method, the largest relative error: over samples for the noise and the
            conditioning, and of all weights together.
        estimate: what the method itself estimated then, the largest over samples; None of exact
            gradients, and where it cannot tell.

    """

    method: GradientMethod
    reason: str
    errors: dict[str, float]
    estimate: float | None = None

    def foretold(self, estimate: float) -> float:
        """The error that goes with another estimate, if the two keep their ratio; NaN if nothing
        can be told.
        """
        error = self.errors.get(repr(self.method), math.nan)
        return error * estimate / self.estimate if self.estimate else math.nan


@dataclass
class _Watched:
    """What became of the choices for a kind of problem.

    Args:
        least: how many VJPs are tried at least.
        alarms: how many gradients in a row were foretold to be too far off.

    """

    least: int = 0
    alarms: int = 0


@dataclass(frozen=True)
class Auto(GradientMethod):
    """The cheapest method whose error, measured on this network and loss, is within a tolerance.

    The first gradient of every kind of problem (network, sampler, number of calls, about which
    times, guidance scale, shape, dtype, what requires grad) is exact. When it is asked for,
    `Interpolated` with more and more VJPs is tried on the very same batch and cotangent until the
    error is within the tolerance. That method serves all later gradients, or the exact one does if
    none suffices; so the first backward pass costs a few times as much. What was chosen and why is
    logged (logger `adjointdpm.engine.gradients.auto`, level INFO) and kept in `choices`. The tasks
    keep it in their checkpoints, so that a resumed run goes on with it; of several processes the
    one decides for all whose examples need most.

    A measurement on one batch is no bound for others. Later gradients come with an estimate of
    their own error (`ErrorEstimate`; not with one VJP a stage), which is compared with what was
    estimated when the method was chosen: where that foretells more than twice the tolerance for
    three gradients in a row, the next one is exact and measured again, with as many VJPs and more.
    Of one that is to be differentiated again (create_graph) only exact ones are able:
    `Checkpoint()`.

    Args:
        tolerance: largest relative error accepted, 0 or more; 0 always means exact.
        memory_budget: of the exact gradients, as in `Checkpoint`.

    Raises:
        InvalidInputError, InvalidTypeError: the tolerance is not a number of at least 0, or the
            budget is none.

    Attributes:
        choices: by network, what was decided, by kind of problem, oldest first.

    """

    tolerance: float = 0.01
    memory_budget: int | Literal["auto"] | None = None
    _exact: Checkpoint = field(init=False, repr=False, compare=False)
    _codes: set[Any] = field(
        default_factory=set, init=False, repr=False, compare=False
    )  # of functions that were measured
    choices: WeakKeyDictionary[Any, dict[str, Choice]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )
    _watched: WeakKeyDictionary[Any, dict[str, "_Watched"]] = field(
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
        """What was chosen stays where it is."""
        return type(self), (self.tolerance, self.memory_budget)

    @property
    def exact(self) -> Checkpoint:
        """The exact method with the same budget."""
        return self._exact

    def decisions(self, network: Any) -> dict[str, dict[str, Any]]:
        """What was decided for a network, by kind of problem, oldest first, as JSON can hold it and
        `decide` takes it.

        Of each kind also "least", how many VJPs are tried at least, and "alarms", how many
        gradients in a row were foretold to be too far off; those alone where nothing has been
        measured since a choice was given up.
        """
        decided, found = self.choices.get(network, {}), {}
        for kind, watched in self._watched.get(network, {}).items():
            found[kind] = {"least": watched.least, "alarms": watched.alarms}
            if (choice := decided.get(kind)) is not None:
                vjps = choice.method.vjps if isinstance(choice.method, Interpolated) else None
                found[kind] |= {
                    "vjps": vjps,
                    "reason": choice.reason,
                    "errors": choice.errors,
                    "estimate": choice.estimate,
                }
        return found

    def decide(self, network: Any, decisions: dict[str, dict[str, Any]]) -> None:
        """Take over what was decided in another process or an earlier session, in place of all that
        was measured here.
        """
        known, before = self.choices.setdefault(network, {}), dict(self.choices.get(network, {}))
        watched = self._watched.setdefault(network, {})
        known.clear()
        watched.clear()
        for (
            kind,
            facts,
        ) in decisions.items():  # older checkpoints hold neither the estimate nor what goes with it
            watched[kind] = _Watched(facts.get("least", 0), facts.get("alarms", 0))
            if "vjps" not in facts:
                continue
            method = self.exact if facts["vjps"] is None else Interpolated(facts["vjps"])
            known[kind] = Choice(method, facts["reason"], facts["errors"], facts.get("estimate"))
            if before.get(kind) != known[kind]:
                _log.info("as decided before, or in another process: %s", known[kind].reason)

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Solve with the method chosen for this kind of problem; while there is none, exactly, and
        measure when the gradient comes.
        """
        if self.tolerance == 0 or problem.plan.requires_grad:
            return self.exact.solve(problem)
        network = problem.denoiser.network
        owner = getattr(network, "__self__", network)
        try:
            known, watched = self.choices.setdefault(owner, {}), self._watched.setdefault(owner, {})
        except TypeError as error:
            _log.info(
                "exact gradients: nothing can be remembered of %s (%s)",
                type(network).__name__,
                error,
            )
            return self.exact.solve(problem)
        kind = _kind(problem)
        if kind in known:
            return self._use(problem, known, watched, kind)
        pilot = replace(problem.detached(), callback=None)
        result = self.exact.solve(problem)
        # Not under no_grad, and not if it is only what the network captures that requires grad.
        if result.requires_grad and any(tensor.requires_grad for tensor in _inputs(problem)):
            device = result.device.type
            autocast = torch.autocast(
                device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
            )

            def measure(cotangent: Tensor) -> None:
                # Of no gradient, or none that is finite, nothing can be learned.
                if kind not in known and bool(cotangent.isfinite().all()) and bool(cotangent.any()):
                    self._warn_of_new_functions(network, watched)
                    state = watched.setdefault(kind, _Watched())
                    with autocast:
                        known[kind] = self._choose(pilot, cotangent, state.least)

            result.register_hook(measure)
        return result

    def _use(
        self, problem: Problem, known: dict[str, Choice], watched: dict[str, "_Watched"], kind: str
    ) -> Float[Tensor, "batch *shape"]:
        """Solve with what was chosen, and forget the choice if it is no longer good enough time and
        again.
        """
        choice, method = known[kind], known[kind].method
        if not isinstance(method, Interpolated):
            return method.solve(problem)

        def watch(estimate: Tensor) -> None:
            add_error_estimate(estimate)
            if not choice.estimate or known.get(kind) != choice:
                return
            state, error = watched[kind], choice.foretold(float(estimate.nan_to_num(0.0).max()))
            state.alarms = state.alarms + 1 if error > DRIFT * self.tolerance else 0
            if state.alarms >= PATIENCE:
                del known[kind]
                state.least, state.alarms = method.vjps, 0
                _log.info(
                    "%r seems to be off by %.2g now, more than %g: it is measured again",
                    method,
                    error,
                    self.tolerance,
                )

        return method.solve(problem, watch)

    def _warn_of_new_functions(self, network: Any, known: dict[str, "_Watched"]) -> None:
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

    def _choose(self, problem: Problem, cotangent: Tensor, least: int) -> Choice:
        exact = _gradients(problem, self.exact, cotangent)
        errors: dict[str, float] = {}
        for vjps in (math.ceil(share * problem.plan.calls) for share in SHARES):
            if vjps < least:
                continue
            method = Interpolated(vjps)
            estimates: list[Tensor] = []
            try:
                error = _error(_gradients(problem, method, cotangent, estimates.append), exact)
            except UnsupportedError as refusal:
                choice = Choice(
                    self.exact,
                    f"exact gradients, because few-VJP ones are refused here: {refusal}",
                    errors,
                )
                break
            errors[repr(method)] = error
            if error <= self.tolerance:
                estimate = float(estimates[0].max())
                reason = f"{method!r}: its error of {error:.2g} is within {self.tolerance:g}"
                choice = Choice(
                    method, reason, errors, estimate if math.isfinite(estimate) else None
                )
                break
        else:
            measured = ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
            choice = Choice(
                self.exact,
                f"exact gradients: no cheaper method is within {self.tolerance:g} ({measured})",
                errors,
            )
        _log.info(
            "%s, %d network calls: %s",
            type(problem.sampler).__name__,
            problem.plan.calls,
            choice.reason,
        )
        return choice


def _inputs(problem: Problem) -> list[Tensor]:
    """What belongs to samples, then the weights."""
    return [problem.start, *problem.inputs, *problem.denoiser.parameters()]


def _kind(problem: Problem) -> str:
    wanted = tuple(tensor.requires_grad for tensor in _inputs(problem))
    grid, scale, start = problem.plan.grid, problem.guidance_scale, problem.start
    times = tuple(
        f"{grid[i].item():.1g}" for i in (0, len(grid) // 2, -1)
    )  # about: a grid may be jittered from call to call
    guidance = None if isinstance(scale, Tensor) else scale  # a tensor may be what is learned
    training = getattr(problem.denoiser.network, "training", False)
    how = (
        training,
        repr(problem.sampler),
        problem.plan.calls,
        times,
        problem.denoiser.prediction,
        guidance,
    )
    return repr(
        (*how, start.shape[1:], start.dtype, torch.is_autocast_enabled(start.device.type), wanted)
    )  # a text can be saved


def _gradients(
    problem: Problem, method: GradientMethod, cotangent: Tensor, watch: Watch | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients for what belongs to samples, and for weights; None counts as no gradient."""
    problem = problem.detached()
    samples = [t for t in (problem.start, *problem.inputs) if t.requires_grad]
    weights = [p for p in problem.denoiser.parameters() if p.requires_grad]
    devices = [cotangent.device] if cotangent.is_cuda else []
    with torch.enable_grad(), torch.random.fork_rng(devices=devices):
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
    worst = 0.0
    for a, b in zip(ours[0], exact[0], strict=True):
        error, size = (g.reshape(len(g) if g.ndim else 1, -1).norm(dim=1) for g in (a - b, b))
        worst = max(worst, float((error / size.clamp(min=torch.finfo(size.dtype).tiny)).max()))
    if ours[1]:
        error, size = (
            torch.cat([g.flatten() for g in gradients]).norm()
            for gradients in (_differences(ours[1], exact[1]), exact[1])
        )
        worst = max(worst, float(error / size.clamp(min=torch.finfo(size.dtype).tiny)))
    return worst if math.isfinite(worst) else math.inf


def _differences(ours: list[Tensor], exact: list[Tensor]) -> list[Tensor]:
    return [a - b for a, b in zip(ours, exact, strict=True)]
