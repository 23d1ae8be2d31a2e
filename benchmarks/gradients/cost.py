"""What methods cost: seconds, network calls, VJPs and bytes held.

Seconds stand beside those of full backpropagation in the same run.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from adjointdpm.engine.gradients import Backprop, GradientMethod
from adjointdpm.engine.gradients.checkpoint import graph_bytes
from adjointdpm.engine.sampling import sample
from adjointdpm.engine.stats import stats
from adjointdpm.engine.tree import leaves, tree_map
from adjointdpm.errors import AdjointDPMError
from benchmarks.gradients.methods import Method
from benchmarks.gradients.registration import Registration, Setting
from benchmarks.gradients.results import Line, Results
from benchmarks.gradients.run import Clock, Selection
from benchmarks.gradients.workload import Workload

LEARNED = ("inputs", "lora", "weights")
BESIDE = 3  # methods between two runs of full backpropagation
CALLS = 5  # network calls of which the median is taken


def measure_costs(
    workload: Workload,
    registration: Registration,
    selection: Selection,
    results: Results,
    clock: Clock,
    learned: Sequence[str] = LEARNED,
    report: Callable[[str], None] = lambda text: None,
) -> bool:
    """Measure what is selected and not yet in `results`; whether all of it is there now.

    The first registered picture alone, loss ½‖x_0‖², at the registered guidance; one round of all
    methods after the other, in a new order each time.
    """
    timing = registration.content["timing"]
    chosen = [
        s
        for s in registration.settings()
        if selection.takes(s) and s.guidance == timing["guidance"]
    ]
    for number in range(timing["rounds"]):
        for what in learned:
            for setting in chosen:
                context = _learning(workload, what)
                if context is None:
                    continue
                with context as tensors:
                    bench = _Bench(workload, registration, setting, what, tensors)
                    if not bench.round(
                        number, selection.methods_of(registration, setting), results, clock, report
                    ):
                        return False
    return True


def _learning(workload: Workload, what: str) -> AbstractContextManager[list[Tensor]] | None:
    """A context in which the tensors to learn are there and require grad.

    Noise and embedding are not among them.
    """
    return {"inputs": _nothing, "lora": workload.adapter, "weights": workload.trainable}[what]()


@contextmanager
def _nothing() -> Iterator[list[Tensor]]:
    yield []


class _Bench:
    """One setting and one set of learned tensors.

    For "inputs" these are noise and embedding, else a LoRA or all weights and nothing else.
    """

    def __init__(
        self,
        workload: Workload,
        registration: Registration,
        setting: Setting,
        what: str,
        weights: list[Tensor],
    ) -> None:
        self.workload, self.registration, self.setting, self.what = (
            workload,
            registration,
            setting,
            what,
        )
        pair = registration.pairs(workload.name)[:1]
        inputs = what == "inputs"
        with torch.no_grad():
            self.denoiser, cond = workload.denoiser(pair, setting.guidance)
            self.noise = workload.noise(pair)
        self.noise.requires_grad_(inputs)
        self.cond = tree_map(lambda tensor: tensor.detach().clone().requires_grad_(inputs), cond)
        self.wanted = [self.noise, *leaves(self.cond)] if inputs else weights
        self.grid = setting.grid(workload.schedule)

    def round(
        self,
        number: int,
        methods: Sequence[Method],
        results: Results,
        clock: Clock,
        report: Callable[[str], None],
    ) -> bool:
        """Whether time was enough."""
        todo = [method for method in methods if results.get(self._identity(method, number)) is None]
        random.Random(number).shuffle(todo)
        size = self.graph_bytes() if todo else 0
        beside: Line = {}
        for i, method in enumerate(todo):
            if clock.over:
                return False
            where = (
                f"{self.workload.name}, {self.setting.sampler}, N = {self.setting.calls}, "
                f"{self.what}"
            )
            report(f"{where}, costs, round {number + 1}: {method.name}")
            made = method.make(size)
            counts: Line = {}
            try:
                if number == 0:
                    with stats() as counted:
                        self.solve(made)
                    counts = {
                        "network_calls": counted.network_calls,
                        "vjps": counted.vjps,
                        "peak_bytes_held": counted.peak_bytes_held,
                        "graph_bytes": size,
                    }
                elif method.compiled:
                    self.solve(made)
                if i % BESIDE == 0:
                    beside = self.beside()
                seconds: Line = {
                    "seconds": self._seconds(lambda made=made: self.solve(made)),
                    **beside,
                }
            except AdjointDPMError as error:
                seconds = {"failed": f"{type(error).__name__}: {error}"}
            results.add(
                self._identity(method, number),
                {"family": method.family, "exact": method.exact, **counts, **seconds},
            )
        return True

    def solve(self, method: GradientMethod) -> None:
        """Sample and differentiate."""
        setting = self.setting
        x = sample(
            self.denoiser,
            self.noise,
            schedule=self.workload.schedule,
            cond=self.cond,
            grid=self.grid,
            sampler=setting.rule,
            gradient=method,
        )
        torch.autograd.grad(0.5 * x.square().sum(), self.wanted, allow_unused=True)

    def beside(self) -> Line:
        """Measure seconds of what methods are compared with.

        That is full backpropagation, a forward call, a forward and backward call, and the sum of
        two of its gradients.
        """
        x = self.noise.detach()
        t = self.grid[len(self.grid) // 2].to(x.device, torch.float32).expand(len(x))

        def forward() -> None:
            with torch.no_grad():
                self.denoiser(x, t, self.cond)

        def both() -> None:
            # From the second call on the state requires grad, whatever is learned.
            state = x.clone().requires_grad_()
            output = self.denoiser(state, t, self.cond)
            torch.autograd.grad(output.sum(), [state, *self.wanted], allow_unused=True)

        def add() -> None:
            for total, gradient in zip(totals, gradients, strict=True):
                total.add_(gradient)

        totals, gradients = (
            [torch.ones_like(tensor, requires_grad=False) for tensor in self.wanted]
            for _ in range(2)
        )
        return {
            "forward": statistics.median(self._seconds(forward) for _ in range(CALLS)),
            "forward_backward": statistics.median(self._seconds(both) for _ in range(CALLS)),
            "sum": statistics.median(self._seconds(add) for _ in range(CALLS)),
            "backprop": self._seconds(lambda: self.solve(Backprop())),
        }

    def graph_bytes(self) -> int:
        """Bytes that the graph of one guided network call holds."""
        t = self.grid[:1].to(self.noise.device, torch.float32).expand(len(self.noise))
        return graph_bytes(self.denoiser, self.noise, t, self.cond, self.denoiser.null_cond)

    def _identity(self, method: Method, number: int) -> Line:
        where = {
            "model": self.workload.name,
            **self.setting.key,
            "part": self.what,
            "method": method.name,
            "round": number,
        }
        return {"kind": "cost", "registration": self.registration.digest, **where}

    def _seconds(self, action: Callable[[], None]) -> float:
        self._wait()
        started = time.perf_counter()
        action()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.noise.is_cuda:
            torch.cuda.synchronize()
