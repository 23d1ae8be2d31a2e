"""Sums over everything but the first dimension, in float64: squares of small gradients are out of
the range of shorter formats.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def precise(tensor: Tensor) -> torch.dtype:
    """The dtype to add up in: float64 where the device of `tensor` has it, else float32."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def dots(
    a: Float[Tensor, "batch *shape"], b: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "batch *ones"]:
    """⟨a, b⟩ of each sample, with as many dimensions as they have."""
    dtype = precise(a)
    return (a.to(dtype) * b.to(dtype)).reshape(len(a), -1).sum(1).view(-1, *[1] * (a.ndim - 1))


def norms(x: Float[Tensor, "batch *shape"]) -> Float[Tensor, " batch"]:
    """‖x‖ of each sample."""
    return torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1, dtype=precise(x))


def positive(values: Tensor) -> Tensor:
    """`values`, those below the smallest normal number raised to it: to divide by."""
    return values.clamp(min=torch.finfo(values.dtype).tiny)
