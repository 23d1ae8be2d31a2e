"""The methods that are compared, each under the name that it has in the tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adjointdpm.engine.gradients import (
    Adjoint,
    Backprop,
    Checkpoint,
    GradientMethod,
    Interpolated,
    Reversible,
    Truncated,
)
from adjointdpm.engine.samplers import Euler, Heun, Midpoint
from benchmarks.gradients.coarse import CoarseSampler
from benchmarks.gradients.flowgrad import FlowGrad
from benchmarks.gradients.registration import Setting

EXACT = "Checkpoint()"


@dataclass(frozen=True)
class Method:
    """A method in the benchmark.

    Attributes:
        name: in tables and results.
        family: what it is drawn as.
        make: builds it, given the bytes that one network graph holds.
        exact: equal to the exact gradient but for rounding, so that a few pictures are enough to
            check that.
        alone: it chooses something from the pictures of a batch, or one of them may fail it: it
            gets one at a time.
        compiled: its first solve of a process takes long for a reason that is no cost of a
            gradient: one is made before seconds are taken.

    """

    name: str
    family: str
    make: Callable[[int], GradientMethod]
    exact: bool = False
    alone: bool = False
    compiled: bool = False

    @property
    def budgeted(self) -> bool:
        """Whether it depends on what a graph holds; it is of interest for its cost alone."""
        return "memory_budget" in self.name


def registered(content: dict[str, Any], setting: Setting) -> list[Method]:
    """The registered methods for a setting, by the file's `methods`.

    Shares there are of N; whole numbers are numbers of steps.
    """
    chosen, n, steps = content["methods"], setting.calls, setting.steps
    found = [
        _plain("Backprop()", "exact", Backprop, exact=True),
        _plain(EXACT, "exact", Checkpoint, exact=True),
    ]
    found += [_budget(share, n) for share in chosen["memory_budgets"]]
    if setting.sampler == "reversible":
        return [*found, _plain("Reversible()", "reversible", Reversible, exact=True, alone=True)]
    for states in ("solved", "stored"):
        for rule in (Euler(), Heun(), Midpoint()):
            same = states == "stored" and rule == Euler() == setting.rule
            found.append(_adjoint(states, rule, None, exact=same))
    if setting.sampler not in chosen["few_vjps_for"]:
        return found
    for count in _counts(chosen["vjps"], steps):
        found += [
            _plain(f"Interpolated(vjps={count})", "interpolated", lambda m=count: Interpolated(m)),
            _adjoint("stored", Euler(), count),
            _plain(
                f"CoarseSampler(steps={count})", "coarse sampler", lambda m=count: CoarseSampler(m)
            ),
            _plain(f"FlowGrad(vjps={count})", "FlowGrad", lambda m=count: FlowGrad(m), alone=True),
        ]
    found += [
        _adjoint(states, Heun(), count)
        for states in ("solved", "stored")
        for count in _counts(chosen["heun_steps"], steps)
    ]
    return found + [
        _plain(f"Truncated(last={k})", "truncated", lambda k=k: Truncated(k))
        for k in _counts(chosen["truncated"], steps)
    ]


def _counts(shares: Sequence[float | int], steps: int) -> list[int]:
    counts = [share if isinstance(share, int) else max(1, round(share * steps)) for share in shares]
    return sorted({count for count in counts if count <= steps})


def _plain(
    name: str,
    family: str,
    make: Callable[[], GradientMethod],
    exact: bool = False,
    alone: bool = False,
) -> Method:
    return Method(name, family, lambda _: make(), exact, alone)


def _budget(share: float, calls: int) -> Method:
    graphs = max(1, round(share * calls))
    # Half a graph to spare, so that rounding in the measured size does not lose a whole one.
    return Method(
        f"Checkpoint(memory_budget={graphs} graphs)",
        "exact",
        lambda size: Checkpoint(memory_budget=int((graphs + 0.5) * size)),
        exact=True,
    )


def _adjoint(states: Any, rule: Any, steps: int | None, exact: bool = False) -> Method:
    short = f", steps={steps}" if steps is not None else ""
    name = f'Adjoint("{states}", {type(rule).__name__}(){short})'
    return _plain(name, f"adjoint, {states}", lambda: Adjoint(states, rule, steps), exact=exact)
