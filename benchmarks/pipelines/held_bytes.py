"""Bytes that a run of a pipeline leaves behind, for the backward pass to come."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from adjointdpm.pipelines.any_pipeline import AnyPipeline


def held_bytes(run: Callable[[], Any]) -> int:
    """Bytes on the CPU that `run` allocated and that are still there when it has returned.

    Everything counts: what autograd saved, what closures hold, and the result itself.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        result = run()
    assert result is not None  # it holds its graph up to here
    return sum(event.self_cpu_memory_usage for event in found.events() or [])


def growth_per_step(
    model: AnyPipeline, noise: Tensor, arguments: dict[str, Any], steps: tuple[int, int] = (3, 12)
) -> float:
    """How many more bytes a run with its graph holds for each further step.

    The first run, which is not measured, makes what pipelines and networks keep between calls.
    """

    def run(count: int) -> int:
        torch.manual_seed(3)
        given: dict[str, Any] = arguments | {"num_inference_steps": count}
        return held_bytes(lambda: model(noise=noise, **given))

    run(2)
    few, many = (run(count) for count in steps)
    return (many - few) / (steps[1] - steps[0])
