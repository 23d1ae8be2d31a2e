"""What gradients are compared with.

It is the exact gradient of the sampler's own steps, and the gradient of the converged ODE.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from adjointdpm.engine.gradients import Checkpoint
from adjointdpm.engine.samplers import RungeKutta4
from adjointdpm.support.files import write_bytes
from benchmarks.gradients.registration import Pair, Setting, between
from benchmarks.gradients.solve import TENSORS, Gradients, Part, gradients
from benchmarks.gradients.workload import Workload


def exact_gradients(
    workload: Workload, setting: Setting, pairs: Sequence[Pair], metrics: Sequence[str], part: Part
) -> Gradients:
    """Of the sampler's own steps, to rounding."""
    return gradients(workload, setting, Checkpoint(), pairs, metrics, part)


def ode_gradients(
    workload: Workload,
    setting: Setting,
    pairs: Sequence[Pair],
    metrics: Sequence[str],
    part: Part,
    steps: int,
    folder: Path | None = None,
) -> Gradients:
    """Gradients of the probability-flow ODE between the ends of the setting's grid.

    RK4 solves it on a Karras grid, and is differentiated exactly.

    Whether that has converged is for the caller to check, with half as many steps. It does not
    depend on the sampler, so samplers that start and end at the same times share it by `folder`,
    which keeps it: kilobytes for inputs, a few copies of the network for weights.
    """
    start, *_, end = setting.grid(workload.schedule).tolist()

    def solve(some: Sequence[Pair]) -> Gradients:
        grid = between(workload.schedule, start, end, steps)
        return gradients(
            workload, setting, Checkpoint(), some, metrics, part, grid=grid, sampler=RungeKutta4()
        )

    if folder is None:
        return solve(pairs)
    suffix = "" if part == "inputs" else f"-{part}"
    name = (
        f"{workload.name}-guidance{setting.guidance:g}-from{start:g}-to{end:g}-rk4-{steps}{suffix}"
    )
    files = {pair.index: folder / f"{name}-pair{pair.index}.safetensors" for pair in pairs}
    missing = [pair for pair in pairs if not files[pair.index].is_file()]
    if missing:
        found = solve(missing)
        for row, pair in enumerate(missing):
            tensors = {
                f"{t}/{m}": value[row].cpu().contiguous()
                for t, rows in found.items()
                for m, value in rows.items()
            }
            write_bytes(files[pair.index], save(tensors))
    stored = [load_file(files[pair.index]) for pair in pairs]
    device = next(iter(workload.weights.values())).device
    return {
        t: {m: torch.stack([one[f"{t}/{m}"] for one in stored]).to(device) for m in metrics}
        for t in TENSORS[part]
    }
