"""A copy of an autoencoder that a pipeline may cast for its decoding; the user's own stays."""

from typing import Any

import torch
from torch import nn

from adjointdpm.engine.shallow_copy import shallow_copy
from adjointdpm.engine.torch_internals import is_compiled, target_of_to


def autoencoder_twin(autoencoder: nn.Module) -> nn.Module:
    """A shallow copy; `to(dtype)` gives it weights of its own, cast from those of the autoencoder.

    Pipelines cast their autoencoder to float32 in place and back after the decoding. In place, the
    backward pass would find other weights than the decoding used, and another thread would too. The
    cast ones pass their gradients on.
    """
    if is_compiled(autoencoder):  # compiled for these very weights
        return autoencoder
    made = shallow_copy(autoencoder)
    # Of parts that are run by hooks, a copy would run the original.
    has_hooks = any(
        "forward" in vars(part) for part in autoencoder.modules() if part is not autoencoder
    )

    def to(*args: Any, **kwargs: Any) -> nn.Module:
        device, dtype = target_of_to(*args, **kwargs)
        if dtype is None or dtype == made.dtype or has_hooks:
            return nn.Module.to(made, *args, **kwargs)
        own = autoencoder if device is None else autoencoder.to(device)
        source = own if dtype == autoencoder.dtype else _cast(own, dtype, {})
        for kind in ("_modules", "_parameters", "_buffers"):
            vars(made)[kind] = vars(source)[kind]
        return made

    vars(made)["to"] = to
    return made


def _cast(module: nn.Module, dtype: torch.dtype, seen: dict[int, nn.Module]) -> nn.Module:
    """A copy of a module and its parts with weights of another dtype."""
    if id(module) in seen:
        return seen[id(module)]
    made = seen[id(module)] = shallow_copy(module)
    for kind in ("_parameters", "_buffers"):
        vars(made)[kind] = {
            name: tensor.to(dtype) if tensor is not None and tensor.is_floating_point() else tensor
            for name, tensor in vars(module)[kind].items()
        }
    vars(made)["_modules"] = {
        name: None if part is None else _cast(part, dtype, seen)
        for name, part in module._modules.items()
    }
    return made
