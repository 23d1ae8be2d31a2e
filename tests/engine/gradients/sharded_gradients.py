"""Run by two processes: gradients of sharded weights beside those of whole ones."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import adjointdpm as adj
from adjointdpm.errors import UnsupportedError
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import CASES, build, denoiser, shaping

SCHEDULE = adj.NoiseSchedule.linear()
EXACT = {
    "backprop": adj.Backprop(),
    "checkpoint": adj.Checkpoint(),
    "some graphs": adj.Checkpoint(memory_budget=10**5),
    "auto": adj.Auto(),
}
OWN_BACKWARD = [adj.Adjoint(), adj.Interpolated(vjps=2), adj.Adjoint(states="stored")]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(torch.tanh(self.inner(x)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return self.second(self.first(x)) * t[:, None].cos()


def network() -> Network:
    torch.manual_seed(0)
    return Network().double()


def sharded(parts: bool) -> Network:
    found = network()
    if parts:
        fully_shard(found.first)
        fully_shard(found.second)
    return fully_shard(found)


def gradients(model: nn.Module, method: Any, wrapped: bool = False) -> list[Tensor]:
    """Of the noise and of the weights, after a backward pass; each process has its own noise."""
    generator = torch.Generator().manual_seed(7 + dist.get_rank())
    noise = torch.randn(4, 8, dtype=torch.double, generator=generator).requires_grad_()
    denoiser: Any = (lambda x, t, c: model(x, t, c)) if wrapped else model
    for parameter in model.parameters():
        parameter.grad = None
    sample = adj.sample(denoiser, noise, schedule=SCHEDULE, steps=4, gradient=method)
    sample.sin().mean().backward()
    assert noise.grad is not None
    return [noise.grad, *(whole(p.grad) for p in model.parameters())]


def whole(gradient: Any) -> Tensor:
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def averaged(gradients: list[Tensor]) -> list[Tensor]:
    """The noise's own gradient, and the weights' mean over the processes."""
    for gradient in gradients[1:]:
        dist.all_reduce(gradient)
        gradient /= dist.get_world_size()
    return gradients


def check_exact(model: nn.Module, expected: list[Tensor], shards: bool) -> None:
    for name, method in EXACT.items():
        for wrapped in (False, True):
            found = gradients(model, method, wrapped)
            if shards:
                assert all(isinstance(p.grad, DTensor) for p in model.parameters()), name
            for ours, full in zip(found, expected, strict=True):
                assert full.norm() > 0
                torch.testing.assert_close(ours, full, rtol=1e-13, atol=1e-15)


def check_refused(model: nn.Module, library: str) -> None:
    for method in OWN_BACKWARD:
        with pytest.raises(UnsupportedError, match=rf"{re.escape(library)}.*Checkpoint\(\)"):
            gradients(model, method)


def check_pipeline(name: str) -> None:
    """The same through a pipeline's own code."""
    found = []
    for shard in (False, True):
        pipe = build(name).to(torch.double)
        part = denoiser(pipe)
        part.requires_grad_(True)
        if shard:
            fully_shard(part)
        model = AnyPipeline(pipe)
        noise = model.noise(2, 1, **shaping(name)).requires_grad_()
        model(noise=noise, **CASES[name].arguments).sin().mean().backward()
        assert noise.grad is not None
        gradients = [noise.grad, *(whole(p.grad) for p in part.parameters() if p.grad is not None)]
        found.append(gradients if shard else averaged(gradients))
    assert len(found[0]) == len(found[1]) > 10
    for full, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, full, rtol=1e-10, atol=1e-12)


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    expected = averaged(gradients(network(), adj.Backprop()))
    for parts in (False, True):
        check_exact(sharded(parts), expected, shards=True)
        check_refused(sharded(parts), "FSDP2")
    parallel = DistributedDataParallel(network())
    check_exact(parallel, expected, shards=False)
    check_refused(parallel, "DistributedDataParallel")
    check_pipeline("FluxPipeline")
    (out / f"done-{dist.get_rank()}").touch()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
