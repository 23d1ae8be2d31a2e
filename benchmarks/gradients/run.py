"""The measurement of errors: every method at every registered picture.

The order makes any part of it useful.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

import torch

from adjointdpm.engine.stats import Stats, stats
from adjointdpm.errors import AdjointDPMError, OutputError
from benchmarks.gradients.methods import EXACT, Method, registered
from benchmarks.gradients.reference import exact_gradients, ode_gradients
from benchmarks.gradients.registration import Pair, Registration, Setting
from benchmarks.gradients.results import Line, Results
from benchmarks.gradients.solve import Gradients, Part, errors, gradients
from benchmarks.gradients.workload import Workload

Extra = Callable[[Setting], list[Method]]


@dataclass(frozen=True)
class Selection:
    """What part of the registered measurement to make; None is everything.

    Attributes:
        guidance, calls, samplers: values of the settings.
        methods: texts of which a method's name must contain one.
        pairs: how many, from the first.
        parts: which tensors.
        batch: pictures in one pass, where methods allow it.
        ode: whether to compare with the converged ODE too.
        extra: further methods of a setting, such as other libraries'.

    """

    guidance: Sequence[float] | None = None
    calls: Sequence[int] | None = None
    samplers: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    pairs: int | None = None
    parts: Sequence[Part] = ("inputs",)
    batch: int = 4
    ode: bool = True
    extra: Extra | None = None

    def takes(self, setting: Setting) -> bool:
        """Whether a setting is part of it."""
        wanted = (
            (self.guidance, setting.guidance),
            (self.calls, setting.calls),
            (self.samplers, setting.sampler),
        )
        return all(values is None or value in values for values, value in wanted)

    def methods_of(self, registration: Registration, setting: Setting) -> list[Method]:
        """The methods to measure in a setting."""
        found = registered(registration.content, setting) + (
            self.extra(setting) if self.extra is not None else []
        )
        return [
            method
            for method in found
            if self.methods is None or any(text in method.name for text in self.methods)
        ]


@dataclass
class Clock:
    """How much time is left.

    Args:
        minutes: from now; None never ends.

    """

    minutes: float | None = None
    _started: float = field(default_factory=time.monotonic, init=False)

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.minutes is not None and time.monotonic() - self._started >= 60 * self.minutes


def check_weights(workload: Workload, registration: Registration, results: Results) -> None:
    """Note which weights are measured.

    Raises:
        OutputError: `results` holds measurements of the same model with other weights, which would
            be mixed with these.

    """
    identity = {"kind": "model", "registration": registration.digest, "model": workload.name}
    digest, known = workload.digest, results.get(identity)
    if known is None:
        results.add(identity, {"weights": digest})
    elif known["weights"] != digest:
        raise OutputError(
            f"{results.path} holds measurements of the model {workload.name} with weights "
            f"{known['weights']}, and these are {digest}; measure them into another folder with "
            f"--out"
        )


def measure_errors(
    workload: Workload,
    registration: Registration,
    selection: Selection,
    results: Results,
    clock: Clock,
    report: Callable[[str], None] = lambda text: None,
) -> bool:
    """Measure what is selected and not yet in `results`; whether all of it is there now.

    A few pictures in every setting come before more pictures in the first one.
    """
    pairs = registration.pairs(workload.name)[: selection.pairs]
    settings = [setting for setting in registration.settings() if selection.takes(setting)]
    for start in range(0, len(pairs), selection.batch):
        for part in selection.parts:
            for setting in settings:
                # Those with gradients for all weights hold several copies of them: one picture at a
                # time.
                size = selection.batch if part == "inputs" else 1
                some = pairs[start : start + selection.batch]
                for first in range(0, len(some), size):
                    job = _Job(
                        workload, registration, selection, setting, part, results, clock, report
                    )
                    if not job.run(some[first : first + size]):
                        return False
    return True


@dataclass
class _Job:
    """One setting, and tensors of one part."""

    workload: Workload
    registration: Registration
    selection: Selection
    setting: Setting
    part: Part
    results: Results
    clock: Clock
    report: Callable[[str], None]

    def run(self, pairs: Sequence[Pair]) -> bool:
        """Whether time was enough."""
        methods = self.selection.methods_of(self.registration, self.setting)
        todo = [
            (method, missing) for method in methods if (missing := self._missing(method, pairs))
        ]
        if not todo:
            return True
        if self.clock.over:
            return False
        self._say("references", pairs)
        rows = {pair.index: row for row, pair in enumerate(pairs)}
        exact = exact_gradients(self.workload, self.setting, pairs, self.metrics, self.part)
        ode = self._ode(pairs) if self.selection.ode else None
        for method, missing in todo:
            if self.clock.over:
                return False
            self._say(method.name, missing)
            for group in [[pair] for pair in missing] if method.alone else [missing]:
                chosen = [rows[pair.index] for pair in group]
                references = {"exact": exact} | ({} if ode is None else {"ode": ode})
                self._measure(
                    method,
                    group,
                    {name: _rows(values, chosen) for name, values in references.items()},
                )
        return True

    @property
    def metrics(self) -> list[str]:
        """All metrics of the model."""
        return list(self.registration.metrics(self.workload.name))

    def _identity(self, kind: str, pair: Pair) -> Line:
        where = {
            "model": self.workload.name,
            **self.setting.key,
            "part": self.part,
            "pair": pair.index,
        }
        return {"kind": kind, "registration": self.registration.digest, **where}

    def _missing(self, method: Method, pairs: Sequence[Pair]) -> list[Pair]:
        if method.budgeted:
            return []
        checked = self.registration.content["references"]["check_pairs"]
        few = [
            pair
            for pair in pairs
            if method.name == EXACT or not method.exact or pair.index < checked
        ]
        lines = [
            (pair, self.results.get(self._identity("errors", pair) | {"method": method.name}))
            for pair in few
        ]
        return [
            pair
            for pair, line in lines
            if line is None or (self.selection.ode and not (line["ode"] or "failed" in line))
        ]

    def _measure(
        self, method: Method, pairs: Sequence[Pair], references: dict[str, Gradients]
    ) -> None:
        counts: Line = {}
        content: list[Line]
        try:
            with stats(memory=False) as counted:
                value = (
                    references["exact"] if method.name == EXACT else self._gradients(method, pairs)
                )
        except AdjointDPMError as error:
            content = [{"failed": f"{type(error).__name__}: {error}", "errors": {}} for _ in pairs]
        else:
            content = [{"errors": rows} for rows in _compare(value, references, len(pairs))]
            for line, row in zip(
                content, _estimates(counted, self.metrics, len(pairs)), strict=False
            ):
                line["estimates"] = row
            if (
                pairs[0].index == 0 and method.name != EXACT
            ):  # the same counts come out for every picture
                solves = 1 if self.part == "inputs" else len(pairs) * len(self.metrics)
                counts = {
                    "network_calls": counted.network_calls / solves,
                    "vjps": counted.vjps / solves,
                }
        for pair, line in zip(pairs, content, strict=True):
            facts = {
                "ode": "ode" in references,
                "family": method.family,
                "exact": method.exact,
                **counts,
            }
            self.results.add(self._identity("errors", pair) | {"method": method.name}, facts | line)

    def _gradients(self, method: Method, pairs: Sequence[Pair]) -> Gradients:
        return gradients(
            self.workload, self.setting, method.make(0), pairs, self.metrics, self.part
        )

    def _ode(self, pairs: Sequence[Pair]) -> Gradients:
        registered = self.registration.content["references"]
        steps, folder = (
            registered["ode_steps"],
            Path(f"{self.results.path}.references") / self.registration.digest,
        )
        found = ode_gradients(
            self.workload, self.setting, pairs, self.metrics, self.part, steps, folder
        )
        doubted = [
            p
            for p in pairs
            if p.index < registered["check_pairs"]
            and self.results.get(self._identity("doubt", p)) is None
        ]
        if doubted:
            half = ode_gradients(
                self.workload, self.setting, doubted, self.metrics, self.part, steps // 2, folder
            )
            chosen = _rows(found, [i for i, pair in enumerate(pairs) if pair in doubted])
            for pair, line in zip(
                doubted, _compare(half, {"ode": chosen}, len(doubted)), strict=True
            ):
                self.results.add(self._identity("doubt", pair), {"errors": line})
        return found

    def _say(self, what: str, pairs: Sequence[Pair]) -> None:
        numbers = (
            f"{pairs[0].index}" if len(pairs) == 1 else f"{pairs[0].index} to {pairs[-1].index}"
        )
        where = (
            f"{self.workload.name}, {self.setting.sampler}, N = {self.setting.calls}, guidance "
            f"{self.setting.guidance:g}"
        )
        self.report(f"{where}, {self.part}, pairs {numbers}: {what}")


def _rows(values: Gradients, chosen: Sequence[int]) -> Gradients:
    return {t: {m: value[list(chosen)] for m, value in rows.items()} for t, rows in values.items()}


def _estimates(counted: Stats, metrics: Sequence[str], pairs: int) -> list[Line]:
    """By pair: metric -> the relative error that the method estimated.

    Empty if it does not estimate all of them.
    """
    found = torch.cat(counted.error_estimates) if counted.error_estimates else torch.zeros(0)
    if len(found) != len(metrics) * pairs:
        return []
    by_metric = found.view(len(metrics), pairs).tolist()
    return [
        {
            metric: float(f"{row[i]:.4g}") if isfinite(row[i]) else None
            for metric, row in zip(metrics, by_metric, strict=True)
        }
        for i in range(pairs)
    ]


def _compare(value: Gradients, references: dict[str, Gradients], pairs: int) -> list[Line]:
    """By pair: metric -> tensor -> reference -> [relative error, cosine], four digits."""
    found: list[Line] = [{} for _ in range(pairs)]
    for tensor, by_metric in value.items():
        for metric, rows in by_metric.items():
            if rows.shape[1] == 0:  # a model without such a tensor
                continue
            for name, reference in references.items():
                for line, pair in zip(found, errors(rows, reference[tensor][metric]), strict=True):
                    short = [float(f"{number:.4g}") for number in pair]
                    line.setdefault(metric, {}).setdefault(tensor, {})[name] = short
    return found
