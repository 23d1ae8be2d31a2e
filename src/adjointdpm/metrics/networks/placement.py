"""Networks on the device and in the dtype of the pictures."""

import copy
from collections.abc import Hashable
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.inplace_changes import change_counts

_Place = tuple[torch.device, torch.dtype]
# Each network's copies, as long as it lives, with the state that it had when it was copied.
_copies: WeakKeyDictionary[nn.Module, dict[_Place, tuple[Hashable, nn.Module]]] = (
    WeakKeyDictionary()
)


def placed(network: nn.Module, images: Float[Tensor, "*shape"]) -> nn.Module:
    """The network on the device and in the dtype of `images`: itself or a copy.

    A copy is kept for the next call, until the network goes or its weights, its buffers or its
    training mode change. The network itself is never moved: it may be shared, and in the middle of
    somebody else's forward and backward pass.
    """
    weights = (w for w in chain(network.parameters(), network.buffers()) if w.is_floating_point())
    first = next(weights, images)
    place = (images.device, images.dtype)
    if (first.device, first.dtype) == place:
        return network
    copies, state = _copies.setdefault(network, {}), _state(network)
    if place not in copies or copies[place][0] != state:
        copies[place] = state, copy.deepcopy(network).to(*place)
    return copies[place][1]


def _state(network: nn.Module) -> Hashable:
    """Something that differs after every change of a weight, a buffer or a training mode."""
    tensors = [*network.parameters(), *network.buffers()]
    where = tuple(tensor.data_ptr() for tensor in tensors)
    return (
        where,
        tuple(change_counts(tensors)),
        tuple(module.training for module in network.modules()),
    )
