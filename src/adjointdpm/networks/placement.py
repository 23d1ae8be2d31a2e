"""Networks where the pictures are."""

import copy
import functools
from itertools import chain

import torch
from torch import Tensor, nn


def placed(network: nn.Module, images: Tensor) -> nn.Module:
    """The network on the device and in the dtype of `images`: itself if it is there already, or else a copy, kept for the next call.

    It is not moved, since a shared network may be in the middle of someone else's forward and backward pass.
    """
    weights = (w for w in chain(network.parameters(), network.buffers()) if w.is_floating_point())
    first = next(weights, images)
    if (first.device, first.dtype) == (images.device, images.dtype):
        return network
    return _copy(network, images.device, images.dtype)


@functools.lru_cache(maxsize=8)
def _copy(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(network).to(device, dtype)
