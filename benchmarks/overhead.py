"""What `sample` costs beside its network at the size of Stable Diffusion 1.5.

`python -m benchmarks.overhead --page docs/overhead.md`

Four parts, each with lines of its own in `results/overhead.json`; a line that is measured again
replaces the old one, others stay, so that one page can hold several machines.
"""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.gradients.checkpoint import graph_bytes
from benchmarks.common import (
    Page,
    PageOnly,
    check_device,
    check_known,
    has_results,
    machine,
    publish,
    read_results,
    run,
    tell,
    write_results,
)
from benchmarks.inside import Inside, clock
from benchmarks.kernels import kernel_seconds
from benchmarks.memory import peak_resident, restart_peak_resident
from benchmarks.overhead_page import page_text
from benchmarks.sd15 import (
    PLAIN,
    SIZES,
    Size,
    Variant,
    Workload,
    make_workload,
    product_rate,
    products,
)

Line = dict[str, Any]
KEYS = ("part", "size", "device", "dtype", "compile", "batch", "channels_last", "method", "steps")
PLAIN_LINE = {"batch": 1, "channels_last": False}  # what older lines do not say
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PARTS = ("step", "layers", "arithmetic", "runs")
ARITHMETIC_ROUNDS = 20  # of milliseconds each


@dataclass(frozen=True)
class Case:
    """A gradient method at N steps, and the network calls that it cannot do without.

    Attributes:
        forwards: those that need no graph.
        pulls: forward passes with a graph, and the VJP through it.

    """

    name: str
    method: GradientMethod
    forwards: int
    pulls: int


def cases(steps: int) -> list[Case]:
    """Exact gradients in the memory of one network call, few VJPs, and full backpropagation."""
    few = max(1, steps // 5)
    return [
        Case("Checkpoint()", adj.Checkpoint(), steps - 1, steps),
        Case(f"Interpolated(vjps={few})", adj.Interpolated(few), steps - 1, few),
        Case("Backprop()", adj.Backprop(), 0, steps),
    ]


class Direct:
    """Guided network calls made by hand, on inputs that are ready."""

    def __init__(self, work: Workload) -> None:
        self._network = work.network
        self._x, self._t, self._text = work.inputs()
        self._wanted = [self._x.requires_grad_(), self._text.requires_grad_()]
        self._cotangent = torch.ones_like(self._x)

    def forward(self) -> None:
        """One call without a graph."""
        with (
            torch.no_grad()
        ):  # detached, as a sampler's states are: a compiled network would be compiled again
            self._call(self._x.detach(), self._text.detach())

    def pull(self) -> None:
        """One call with a graph, and its VJP for state and text."""
        torch.autograd.grad(self._call(self._x, self._text), self._wanted, self._cotangent)

    def _call(self, x: Tensor, text: Tensor) -> Tensor:
        return self._network(x, self._t, {"encoder_hidden_states": text})


class Free(nn.Module):
    """A module in the network's place that does next to no work.

    Every input takes part and gets its gradient. Its weight has the dtype of a real one's.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.tensor(0.1, dtype=dtype, device=device), requires_grad=False
        )

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return self.weight * x + cond["encoder_hidden_states"].mean((1, 2))[:, None, None, None]


def solve(
    work: Workload, denoiser: adj.Denoiser, method: GradientMethod, steps: int
) -> list[Tensor]:
    """Sample, and the gradients of ½‖x_0‖² for noise and text."""
    x = adj.sample(
        denoiser, work.noise, schedule=work.schedule, cond=work.cond, steps=steps, gradient=method
    )
    return list(torch.autograd.grad(0.5 * x.square().sum(), [work.noise, work.text]))


def measure_pairs(
    work: Workload,
    device: torch.device,
    case: Case,
    steps: int,
    rounds: int,
    limit: float = math.inf,
    keep: Callable[[Line], None] = lambda line: None,
) -> Line:
    """Time `sample` and its gradient beside the same network calls made by hand.

    One comes after the other, and they take turns in being first.

    At most `rounds` pairs, and no pair that would end later than `limit` seconds from now, but one
    always; `keep` sees what there is after each of them.
    """
    now, began = clock(device), time.perf_counter()
    direct, inside = Direct(work), Inside(work.network, now)
    denoiser = work.denoiser(inside)
    direct.pull()  # allocates and chooses kernels
    names = ("ours", "ours_wall", "inside", "direct", "direct_wall", "forwards", "pulls")
    line: Line = {name: [] for name in names}
    line["forward_once"] = [spent(direct.forward, now)[1]]  # the pairs may hold none

    def ours() -> None:
        inside.seconds = 0.0
        wall, busy = spent(lambda: solve(work, denoiser, case.method, steps), now)
        for name, value in (("ours", busy), ("ours_wall", wall), ("inside", inside.seconds)):
            line[name].append(value)

    def by_hand() -> None:
        forwards = [spent(direct.forward, now) for _ in range(case.forwards)]
        pulls = [spent(direct.pull, now) for _ in range(case.pulls)]
        line["direct_wall"].append(sum(wall for wall, _ in forwards + pulls))
        line["direct"].append(sum(busy for _, busy in forwards + pulls))
        line["forwards"] += [busy for _, busy in forwards]
        line["pulls"] += [busy for _, busy in pulls]

    longest = 0.0
    for done in range(rounds):
        started = time.perf_counter()
        if done > 0 and started + longest - began > limit:
            break
        for action in (ours, by_hand) if done % 2 == 0 else (by_hand, ours):
            action()
        longest = max(longest, time.perf_counter() - started)
        line |= {
            "rounds": done + 1,
            "calls": inside.calls // (done + 1),
            "vjps": inside.vjps // (done + 1),
        }
        keep(line)
    return line


def measure_arithmetic(
    work: Workload, device: torch.device, case: Case, steps: int, rounds: int
) -> Line:
    """Seconds of a whole solve outside of a network that does next to nothing."""
    now = clock(device)
    inside = Inside(Free(work.dtype, device), now)
    denoiser = work.denoiser(inside)
    solve(work, denoiser, case.method, steps)
    outside: list[float] = []
    for _ in range(rounds):
        inside.seconds = 0.0
        _, busy = spent(lambda: solve(work, denoiser, case.method, steps), now)
        outside.append(busy - inside.seconds)
    return {"outside": outside, "rounds": rounds}


def measure_run(work: Workload, device: torch.device, case: Case, steps: int, rounds: int) -> Line:
    """Measure whole solves: seconds, the most memory, and the network's own seconds between them.

    Or that memory was not enough.
    """
    now, direct, denoiser = clock(device), Direct(work), work.denoiser()
    line: Line = {
        "seconds": [],
        "forwards": [],
        "pulls": [],
        "forward_calls": case.forwards,
        "pull_calls": case.pulls,
    }
    failed = False
    try:
        for _ in range(2):  # compile and choose kernels, with and without a graph
            direct.forward()
            direct.pull()
        solve(work, denoiser, case.method, 2)
        line["peak_bytes"] = peak_bytes(lambda: solve(work, denoiser, case.method, steps), device)
        if device.type == "cuda":
            line["kernels"] = {
                "forward": kernel_seconds(direct.forward),
                "pull": kernel_seconds(direct.pull),
            }
        for _ in range(rounds):
            line["forwards"].append(spent(direct.forward, now)[0])
            line["pulls"].append(spent(direct.pull, now)[0])
            line["seconds"].append(spent(lambda: solve(work, denoiser, case.method, steps), now)[0])
    except torch.OutOfMemoryError:
        failed = True
    if failed:  # not in the handler: the exception holds on to the graph
        gc.collect()
        torch.cuda.empty_cache()
        x, t, text = work.inputs()
        graph = graph_bytes(work.network, x, t, {"encoder_hidden_states": text})
        return {"failed": "out of memory", "graph_bytes": graph}
    return line


def spent(action: Callable[[], object], now: Callable[[], float]) -> tuple[float, float]:
    """Seconds on the wall and on the clock `now` that `action` takes."""
    began, wall = now(), time.perf_counter()
    action()
    ended = now()
    return time.perf_counter() - wall, ended - began


def peak_bytes(action: Callable[[], object], device: torch.device) -> int:
    """The most bytes while `action` runs, weights included: allocated on a GPU, else resident."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return torch.cuda.max_memory_allocated(device)
    restart_peak_resident()
    action()
    return peak_resident()


class Lines:
    """What is measured so far, in `results/overhead.json`."""

    def __init__(self) -> None:
        found: list[Line] = read_results("overhead") if has_results("overhead") else []
        self.all = [PLAIN_LINE | line for line in found]

    def add(self, line: Line) -> None:
        """Put in a line, and write the file.

        It replaces the line that was measured in the same way, or comes at the end.
        """
        tell(str({key: value for key, value in line.items() if not isinstance(value, list)}))
        same = [i for i, old in enumerate(self.all) if all(old[key] == line[key] for key in KEYS)]
        if same:
            self.all[same[0]] = line
        else:
            self.all.append(line)
        write_results("overhead", self.all)


@dataclass(frozen=True)
class Bench:
    """One device, dtype and size."""

    size: str
    device: torch.device
    dtype: str
    rounds: int
    minutes: float  # for the pairs at full size
    lines: Lines

    def steps(self, steps: list[int]) -> None:
        """Pairs at full size, exact gradients."""
        work = self._workload(SIZES[self.size])
        floor = self._products(work)
        for n in steps:
            case = cases(n)[0]
            restart_peak_resident()

            def keep(measured: Line, n: int = n, case: Case = case) -> None:
                self._add("step", case, n, measured | floor | {"peak_resident": peak_resident()})

            measure_pairs(
                work, self.device, case, n, self.rounds, 60 * self.minutes / len(steps), keep
            )

    def layers(self, steps: int) -> None:
        """Pairs with as many operations, each of them cheap, so that what is around them shows."""
        work = self._workload(SIZES["thin"])
        for case in cases(steps):
            self._add(
                "layers", case, steps, measure_pairs(work, self.device, case, steps, self.rounds)
            )

    def arithmetic(self, steps: int) -> None:
        """Whole solves outside of the network."""
        free = Free(DTYPES[self.dtype], self.device)
        work = make_workload(SIZES[self.size], self.device, DTYPES[self.dtype], network=free)
        for case in cases(steps):
            measured = measure_arithmetic(work, self.device, case, steps, ARITHMETIC_ROUNDS)
            self._add(
                "arithmetic",
                case,
                steps,
                measured | {"forward_calls": case.forwards, "pull_calls": case.pulls},
            )

    def runs(self, steps: int, variant: Variant) -> None:
        """Whole solves with the network."""
        work = make_workload(SIZES[self.size], self.device, DTYPES[self.dtype], variant=variant)
        floor = self._products(work)
        for case in cases(steps):
            self._add(
                "runs",
                case,
                steps,
                measure_run(work, self.device, case, steps, self.rounds) | floor,
                variant,
            )

    def _products(self, work: Workload) -> Line:
        """Matrix products of one guided network call, and how fast the device makes them."""
        forward, backward = (len(work.noise) * count for count in products(SIZES[self.size]))
        return {
            "forward_products": forward,
            "backward_products": backward,
            "product_rate": product_rate(self.device, work.dtype),
        }

    def _workload(self, size: Size) -> Workload:
        return make_workload(size, self.device, DTYPES[self.dtype])

    def _add(
        self, part: str, case: Case, steps: int, measured: Line, variant: Variant = PLAIN
    ) -> None:
        cuda = self.device.type == "cuda"
        where = {
            "size": self.size,
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "dtype": self.dtype,
        }
        how = {
            "compile": variant.mode,
            "batch": variant.batch,
            "channels_last": variant.channels_last,
        }
        key = {"part": part, **where, **how, "method": case.name, "steps": steps}
        self.lines.add(key | {"machine": machine(), "rounds": self.rounds} | measured)


def main(
    size: Annotated[str, typer.Option(help=f"One of {', '.join(SIZES)}.")] = "sd15",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(help="Of the network: float32 or bfloat16. The state is in float32.")
    ] = "bfloat16",
    parts: Annotated[
        list[str] | None,
        typer.Option(help=f"Of {', '.join(PARTS)}; all but runs on a CPU, and all on a GPU."),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(help="Sampler steps of the pairs at full size.", show_default="1, 2"),
    ] = None,
    layer_steps: Annotated[
        int, typer.Option(help="Sampler steps of the pairs with cheap layers.")
    ] = 10,
    run_steps: Annotated[int, typer.Option(help="N of whole solves.")] = 50,
    compile: Annotated[
        list[str] | None,
        typer.Option(
            help="Of whole solves: none, or torch.compile's modes, such as default.",
            show_default="none",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Pictures in a whole solve.")] = 1,
    channels_last: Annotated[
        bool, typer.Option(help="Whole solves with channels last in the network's memory.")
    ] = False,
    rounds: Annotated[int, typer.Option(help="Pairs, of which the median is taken.")] = 5,
    minutes: Annotated[
        float, typer.Option(help="Fewer pairs at full size, if they would take longer.")
    ] = math.inf,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Measure, print the tables, and write `results/overhead.json`, which grows line by line."""
    chosen = parts or [part for part in PARTS if device != "cpu" or part != "runs"]
    check_known("--parts", chosen, PARTS)
    if not page_only:
        check_device(device)
        bench = Bench(size, torch.device(device), dtype, rounds, minutes, Lines())
        if "arithmetic" in chosen:
            bench.arithmetic(run_steps)
        if "layers" in chosen:
            bench.layers(layer_steps)
        if "step" in chosen:
            bench.steps(steps or [1, 2])
        for mode in (compile or ["none"]) if "runs" in chosen else ():
            bench.runs(run_steps, Variant(batch, channels_last, mode))
    publish(page_text(Lines().all), page)


if __name__ == "__main__":
    run(main)
