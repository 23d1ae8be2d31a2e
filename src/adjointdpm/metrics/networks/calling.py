"""Calling a classifier, a user's own among them, and checking what it returns."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.errors import ModelError
from adjointdpm.metrics.networks.placement import placed
from adjointdpm.support.user_code import user_code


def class_logits(
    network: nn.Module, images: Float[Tensor, "batch 3 height width"], what: str
) -> Float[Tensor, "batch classes"]:
    """The network's logits, computed where the pictures are.

    A network of the user's gets a copy of the pictures: what it changes in place is its own.

    Args:
        network: pictures in [0, 1] -> logits.
        images: the pictures.
        what: how messages call the network, such as "victim mine.py:build".

    Raises:
        ModelError: it failed, or returned something else than finite numbers `[B, classes]`.

    """
    users = not type(network).__module__.startswith("adjointdpm.")
    shape = f" on pictures {tuple(images.shape)} in {images.dtype} on {images.device}"
    guard: AbstractContextManager[Any] = (
        user_code(what, ModelError, on=shape) if users else nullcontext()
    )
    with guard:
        found = placed(network, images)(images.clone() if users else images)
    if not isinstance(found, Tensor):
        raise ModelError(
            f"{what} returned {type(found).__name__}; it must return a tensor of logits "
            f"[B, classes], as in `return network(images).logits`"
        )
    if found.ndim != 2 or len(found) != len(images) or not found.shape[1]:
        raise ModelError(
            f"{what} returned shape {tuple(found.shape)} for {len(images)} pictures; it must "
            f"return [B, classes]"
        )
    if not found.is_floating_point() or found.layout != torch.strided:
        raise ModelError(
            f"{what} returned {found.dtype} numbers of layout {found.layout}; logits must be a "
            f"dense tensor of floating-point numbers"
        )
    # Infinity would do no harm, as the logit of a class that is ruled out.
    if bool(found.detach().isnan().any()):
        raise ModelError(
            f"{what} returned NaN; look for what divides by 0 or overflows in {images.dtype}"
        )
    return found.to(images.device, torch.promote_types(found.dtype, torch.float32))
