"""Memory of each gradient method against the number of sampler steps.

`python -m benchmarks.memory --page docs/memory.md`

Every line of the table is a fresh process. What is counted are the bytes that autograd keeps alive
for a backward pass, at their peak over forward and backward pass, recomputation included; the
weights are not counted, and the latents of the N steps are counted apart.
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
import typer
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

import adjointdpm as adj
from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.pipelines import load
from benchmarks.common import (
    MIB,
    Page,
    PageOnly,
    check_known,
    machine,
    publish,
    read_results,
    run,
    table,
    tell,
    write_results,
)

GUIDANCE = 5.0
PROMPT = "a noto emoji of a red apple"


class Watched(nn.Module):
    """The network, telling whether it is running."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.running = network, False

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.running = True
        try:
            return self.network(x, t, cond)
        finally:
            self.running = False


@dataclass(frozen=True)
class Case:
    """One line of a table: a method, N, and the memory budget of `Checkpoint` in MiB."""

    method: str
    steps: int
    budget: int | None = None


METHODS: dict[str, Callable[[Case], GradientMethod]] = {
    "Checkpoint()": lambda _: adj.Checkpoint(),
    'Adjoint("solved")': lambda _: adj.Adjoint("solved"),
    'Adjoint("stored")': lambda _: adj.Adjoint("stored"),
    "Interpolated(vjps=5)": lambda _: adj.Interpolated(5),
    "Backprop()": lambda _: adj.Backprop(),
    "Checkpoint(memory_budget)": lambda case: adj.Checkpoint(
        memory_budget=(case.budget or 0) * MIB
    ),
}


def measure(case: Case, name: str) -> dict[str, Any]:
    """Sample and differentiate in this process; bytes, network calls and seconds."""
    torch.set_num_threads(1)
    model: Any = load(name)
    with torch.no_grad():
        cond, null_cond, scale = model.conditioning(model.encode(PROMPT), None, GUIDANCE)
    noise = model.noise(1, seed=0).requires_grad_()
    cond = {key: value.clone().requires_grad_() for key, value in cond.items()}
    network, latents, latent_bytes = (
        Watched(model.network),
        adj.Stats(),
        noise.untyped_storage().nbytes(),
    )
    denoiser = adj.Denoiser(network, guidance_scale=scale, null_cond=null_cond)
    schedule = adj.NoiseSchedule.from_scheduler(model.pipe.scheduler)
    with torch.no_grad():  # what the libraries allocate once
        denoiser(noise, torch.full((1,), 500.0), cond)
    resident = restart_peak_resident()
    started = time.perf_counter()

    def pack(tensor: Tensor) -> Tensor:
        if not network.running and tensor.untyped_storage().nbytes() == latent_bytes:
            latents.hold(tensor)
        return (
            tensor.detach()
        )  # the tensor itself could make a reference cycle that keeps the graph alive

    with adj.stats() as counts, saved_tensors_hooks(pack, lambda tensor: tensor):
        x = adj.sample(
            denoiser,
            noise,
            schedule=schedule,
            cond=cond,
            steps=case.steps,
            gradient=METHODS[case.method](case),
        )
        (0.5 * x.square().sum()).backward()
    seconds = time.perf_counter() - started
    assert noise.grad is not None
    assert all(tensor.grad is not None for tensor in cond.values())
    return asdict(case) | {
        "graph_bytes": counts.peak_bytes_held,
        "latent_bytes": latents.peak_bytes_held,
        "resident_bytes": peak_resident() - resident,
        "calls": counts.network_calls,
        "seconds": seconds,
    }


def restart_peak_resident() -> int:
    """Forget the peak of loading, and return the resident bytes of now.

    This is Linux's clear_refs: `man 5 proc`.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def peak_resident() -> int:
    """The most bytes that were resident since `restart_peak_resident`.

    getrusage's ru_maxrss would still hold the peak of loading.
    """
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def report(content: dict[str, Any]) -> str:
    """Make the tables of `results/memory.json`, and state the claim that they test."""
    order = list(METHODS)
    results = sorted(
        content["results"],
        key=lambda r: (order.index(r["method"]), r["steps"], r["budget"] or 0),
    )
    plain = [r for r in results if r["budget"] is None]
    budgeted = [r for r in results if r["budget"] is not None]
    lines = [
        f"Measured with `python -m benchmarks.memory` on {content['machine']}; model "
        f"`{content['model']}`, batch 1, guidance {content['guidance']:g}, Euler.",
        "",
    ]
    head = [
        "method",
        "N",
        "held by autograd, MiB",
        "latents, MiB",
        "growth of peak RSS, MiB",
        "network calls",
        "seconds",
    ]
    lines.append(table(head, [[f"`{r['method']}`", str(r["steps"]), *_columns(r)] for r in plain]))
    lines.append("")
    for method in dict.fromkeys(r["method"] for r in plain):
        several = [r for r in plain if r["method"] == method]
        few, many = several[0], several[-1]
        ratio = many["graph_bytes"] / few["graph_bytes"]
        lines.append(
            f"- `{method}` holds {ratio:.3f} times as much at N = {many['steps']} as at N = "
            f"{few['steps']}."
        )
    lines.append("")
    head = ["memory_budget, MiB", "N", "held / budget", *head[2:]]
    rows = [
        [
            str(r["budget"]),
            str(r["steps"]),
            f"{r['graph_bytes'] / MIB / r['budget']:.2f}",
            *_columns(r),
        ]
        for r in budgeted
    ]
    return "\n".join([*lines, "`Checkpoint` with a budget:", "", table(head, rows)])


def _columns(r: dict[str, Any]) -> list[str]:
    sizes = [
        f"{r['graph_bytes'] / MIB:.2f}",
        f"{r['latent_bytes'] / MIB:.3f}",
        f"{r['resident_bytes'] / MIB:.0f}",
    ]
    return [*sizes, str(r["calls"]), f"{r['seconds']:.1f}"]


def main(
    model: Annotated[str, typer.Option(help="A bundled model's name, or a folder.")] = "tiny",
    methods: Annotated[
        list[str] | None, typer.Option(help="Methods without a budget; without it, all.")
    ] = None,
    steps: Annotated[
        list[int] | None, typer.Option(help="Values of N.", show_default="5, 20, 50, 200")
    ] = None,
    affordable: Annotated[int, typer.Option(help="The largest N for full backpropagation.")] = 50,
    budgets: Annotated[
        list[int] | None, typer.Option(help="Memory budgets in MiB.", show_default="40, 80, 160")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(help="Keep what results/memory.json holds already, and measure the rest."),
    ] = False,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Measure, print the tables, and write `results/memory.json`, which grows line by line."""
    torch.set_num_threads(1)
    chosen = methods or list(METHODS)[:5]
    check_known("--methods", chosen, METHODS)
    cases = [
        Case(method, n)
        for method in chosen
        for n in steps or (5, 20, 50, 200)
        if method != "Backprop()" or n <= affordable
    ]
    cases += [Case("Checkpoint(memory_budget)", 20, budget) for budget in budgets or (40, 80, 160)]
    results = read_results("memory")["results"] if resume else []
    for case in [] if page_only else cases:
        if any(asdict(case).items() <= r.items() for r in results):
            continue
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            results.append(fresh.submit(measure, case, model).result())
        tell(str(results[-1]))
        write_results(
            "memory",
            {"machine": machine(), "model": model, "guidance": GUIDANCE, "results": results},
        )
    publish(report(read_results("memory")), page)


if __name__ == "__main__":
    run(main)
