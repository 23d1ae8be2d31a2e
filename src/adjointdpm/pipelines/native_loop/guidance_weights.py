"""How a pipeline combines the outputs of its network calls: read off as one weight for each."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "rows *shape"]


def output_rows(outputs: Sequence[Tensor], like: Float[Tensor, "batch *shape"]) -> Rows | None:
    """The output of a network call as rows of the shape of a state; None if it is something else.

    Args:
        outputs: the tensors that the network returned: one, or one for each row.
        like: the state. What a network returns beyond its size (a variance, other tokens) is cut.

    """
    first = outputs[0] if outputs else None
    if first is None or not first.is_floating_point():
        return None
    if len(outputs) > 1 and all(o[None].numel() == like[0].numel() for o in outputs):
        return torch.stack([o.reshape(like.shape[1:]) for o in outputs])
    if first.ndim == 0 or len(first) % len(like):
        return None
    if first[0].numel() == like[0].numel():
        return first.reshape(len(first), *like.shape[1:])
    return cut(first, like)


def cut(tensor: Tensor, like: Tensor) -> Tensor | None:
    """The first part of a tensor that is longer than `like` in one dimension; None otherwise."""
    if tensor.ndim != like.ndim:
        return None
    other = [d for d in range(1, like.ndim) if tensor.shape[d] != like.shape[d]]
    if not other:
        return tensor
    if len(other) > 1 or tensor.shape[other[0]] < like.shape[other[0]]:
        return None
    return tensor.narrow(other[0], 0, like.shape[other[0]])


def combined(rows: Rows, weights: Float[Tensor, "parts batch"]) -> Float[Tensor, "batch *shape"]:
    """For each sample, the weighted sum of its rows; there are `parts` blocks of B rows."""
    total = None
    for part, weight in zip(rows.split(weights.shape[1]), weights, strict=True):
        term = part * weight.to(part.dtype).view(-1, *[1] * (part.ndim - 1))
        total = term if total is None else total + term
    assert total is not None
    return total


def fitted_weights(
    rows: Rows, target: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "parts batch"]:
    """The weights whose combination comes closest to `target`, sample by sample, in float64."""
    batch = len(target)
    parts = wide(rows).reshape(-1, batch, target[0].numel()).transpose(0, 1)
    gram = parts @ parts.transpose(1, 2)
    right = parts @ wide(target).reshape(batch, -1, 1)
    return torch.linalg.lstsq(gram, right).solution[..., 0].T


def misfit(rows: Rows, target: Tensor, weights: Float[Tensor, "parts batch"]) -> float:
    """The largest difference to `target`, in units of the terms' largest size."""
    rows, target, weights = wide(rows), wide(target), weights.to(wide(target))
    size = combined(rows.abs(), weights.abs()).max()
    return float((combined(rows, weights) - target).abs().max() / size.clamp(min=1e-30))


def wide(tensor: Tensor) -> Tensor:
    """`tensor` in float64, on the CPU where its device has none."""
    tensor = tensor.detach()
    return tensor.to("cpu" if tensor.device.type == "mps" else tensor.device).double()
