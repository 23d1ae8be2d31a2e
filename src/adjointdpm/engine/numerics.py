"""Which dtype to calculate in, and sums over each sample."""

import torch
from jaxtyping import Float
from torch import Tensor


def at_least_float32(tensor: Tensor) -> torch.dtype:
    """The dtype of `tensor`, but float32 in place of a shorter one: for sums and differences."""
    return torch.promote_types(tensor.dtype, torch.float32)


def finest_dtype(tensor: Tensor) -> torch.dtype:
    """float64 where the device of `tensor` has it, else float32.

    For squares of small numbers, which are out of the range of shorter formats, and for states
    that are solved backwards.
    """
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def dots(
    a: Float[Tensor, "batch *shape"], b: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "batch *ones"]:
    """⟨a, b⟩ of each sample, with as many dimensions as they have."""
    dtype = finest_dtype(a)
    return (a.to(dtype) * b.to(dtype)).reshape(len(a), -1).sum(1).view(-1, *[1] * (a.ndim - 1))


def norms(x: Float[Tensor, "batch *shape"]) -> Float[Tensor, " batch"]:
    """‖x‖ of each sample."""
    return torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1, dtype=finest_dtype(x))


def positive(values: Tensor) -> Tensor:
    """`values` raised to the smallest normal number, so that one can divide by them."""
    return values.clamp(min=torch.finfo(values.dtype).tiny)
