"""Gradients of registered losses, sample by sample, by any method."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.samplers import Sampler
from adjointdpm.engine.sampling import sample
from adjointdpm.engine.tree import leaves, tree_map
from benchmarks.gradients.registration import Pair, Setting
from benchmarks.gradients.workload import Workload, lora_matrices

# "inputs": noise and embedding, for many pictures in one pass. "weights": also all weights and,
# from those, a LoRA; one picture a pass.
Part = Literal["inputs", "weights"]
TENSORS: dict[str, tuple[str, ...]] = {
    "inputs": ("noise", "embedding"),
    "weights": ("noise", "embedding", "lora", "weights"),
}

# By tensor and metric: one gradient a pair, flattened, [pairs, numbers].
Gradients = dict[str, dict[str, Tensor]]


def gradients(
    workload: Workload,
    setting: Setting,
    method: GradientMethod,
    pairs: Sequence[Pair],
    metrics: Sequence[str],
    part: Part,
    *,
    grid: Tensor | None = None,
    sampler: Sampler | None = None,
) -> Gradients:
    """The gradient of every metric at every pair.

    Args:
        workload, setting, method, pairs, metrics: what of what, and how.
        part: which tensors.
        grid, sampler: instead of the setting's own.

    """
    grid = setting.grid(workload.schedule) if grid is None else grid
    sampler = setting.rule if sampler is None else sampler
    if part == "inputs":
        return _batch(workload, setting.guidance, method, pairs, metrics, grid, sampler, [])
    projections = lora_matrices(workload)
    result: Gradients = {name: {} for name in TENSORS[part]}
    with workload.trainable() as weights:
        names = list(workload.weights)
        for metric in metrics:
            rows: dict[str, list[Tensor]] = {name: [] for name in TENSORS[part]}
            for pair in pairs:
                one = _batch(
                    workload, setting.guidance, method, [pair], [metric], grid, sampler, weights
                )
                flat = one["weights"][metric]
                by_name = dict(zip(names, flat[0].split([w.numel() for w in weights]), strict=True))
                rows["noise"].append(one["noise"][metric])
                rows["embedding"].append(one["embedding"][metric])
                rows["weights"].append(flat)
                rows["lora"].append(lora_gradient(by_name, projections))
            for name, values in rows.items():
                result[name][metric] = torch.cat(values)
    return result


def lora_gradient(weights: dict[str, Tensor], projections: dict[str, Tensor]) -> Tensor:
    """∂L/∂B = (∂L/∂W) Aᵀ of a LoRA at its start, flattened, [1, numbers].

    The adapted weight is W + B A with B = 0.

    Methods add up the network's own vector-Jacobian products, so this is what they return for an
    adapter in place, to rounding; but for `Interpolated`, which guesses the length of products
    between its nodes from those of what is learned.
    """
    parts = [
        (weights[name].view(-1, a.shape[1]) @ a.T).flatten() for name, a in projections.items()
    ]
    return torch.cat(parts)[None] if parts else torch.zeros(1, 0)


def _batch(
    workload: Workload,
    guidance: float,
    method: GradientMethod,
    pairs: Sequence[Pair],
    metrics: Sequence[str],
    grid: Tensor,
    sampler: Sampler,
    weights: list[Tensor],
) -> Gradients:
    """One pass over pairs × metrics rows; rows of one metric lie together."""
    rows = list(pairs) * len(metrics)
    with torch.no_grad():
        denoiser, cond = workload.denoiser(rows, guidance)
        noise = workload.noise(rows)
    noise.requires_grad_()
    cond = tree_map(lambda tensor: tensor.detach().clone().requires_grad_(), cond)
    x = sample(
        denoiser,
        noise,
        schedule=workload.schedule,
        cond=cond,
        grid=grid,
        sampler=sampler,
        gradient=method,
    )
    losses = [
        workload.losses(metric, part, pairs)
        for metric, part in zip(metrics, x.chunk(len(metrics)), strict=True)
    ]
    (embedding,) = leaves(cond)
    found = torch.autograd.grad(
        torch.cat(losses).sum(), [noise, embedding, *weights], allow_unused=True
    )
    values = [
        torch.zeros_like(t) if g is None else g
        for g, t in zip(found, [noise, embedding, *weights], strict=True)
    ]

    def by_metric(value: Tensor) -> dict[str, Tensor]:
        return dict(zip(metrics, value.flatten(1).chunk(len(metrics)), strict=True))

    result = {"noise": by_metric(values[0]), "embedding": by_metric(values[1])}
    if weights:
        result["weights"] = {metrics[0]: torch.cat([value.flatten() for value in values[2:]])[None]}
    return result


def errors(value: Tensor, reference: Tensor) -> list[tuple[float, float]]:
    """(‖value − reference‖ / ‖reference‖, cosine) of each row, computed in float64.

    They are not finite where the value is not.
    """
    value, reference = value.double(), reference.double()
    length = reference.norm(dim=1)
    relative = (value - reference).norm(dim=1) / length
    cosine = (value * reference).sum(1) / (value.norm(dim=1) * length)
    return list(zip(relative.tolist(), cosine.tolist(), strict=True))
