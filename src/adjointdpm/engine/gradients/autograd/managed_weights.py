"""Networks whose weights and gradients another library manages by hooks: FSDP, DDP, DeepSpeed.

Hooks bring the weights before a call, put them away after it, and share the gradients out when
autograd passes through. A node of our own would go past them.
"""

import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from adjointdpm.engine.gradients.autograd.network_modules import modules_behind

# Looked up where they lie only if something has imported that: the imports take a second.
_MODULES = {
    ("torch.distributed.fsdp", "FSDPModule"): "FSDP2 (fully_shard)",
    ("torch.distributed.fsdp", "FullyShardedDataParallel"): "FSDP",
    ("torch.nn.parallel", "DistributedDataParallel"): "DistributedDataParallel",
}
_TENSORS = {("torch.distributed.tensor", "DTensor"): "DTensor"}
_DEEPSPEED = "ds_id"  # what ZeRO-3 gives each parameter


def who_manages(network: Callable[..., Any]) -> str | None:
    """The library that manages a network's weights; None if it is plain autograd."""
    modules = modules_behind(network)
    for kind, name in _loaded(_MODULES).items():
        if any(isinstance(module, kind) for module in modules):
            return name
    tensors = _loaded(_TENSORS)
    for parameter in (p for module in modules for p in _own_parameters(module)):
        if hasattr(parameter, _DEEPSPEED):
            return "DeepSpeed"
        for kind, name in tensors.items():
            if isinstance(parameter, kind) or isinstance(parameter.data, kind):
                return name
    return None


def _own_parameters(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))


def _loaded(places: dict[tuple[str, str], str]) -> dict[type, str]:
    found = {getattr(sys.modules.get(m), kind, None): name for (m, kind), name in places.items()}
    return {kind: name for kind, name in found.items() if isinstance(kind, type)}
