"""A network whose calls and backward passes `stats` counts, whatever its arguments are."""

import collections
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from adjointdpm.engine.shallow_copy import shallow_copy
from adjointdpm.engine.stats import count_network_call, count_vjp

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def counted(network: nn.Module) -> nn.Module:
    """A shallow copy of `network` that calls it and counts; it shares all weights and parts."""
    made = shallow_copy(network)
    for kind in _HOOKS:  # they run with the network itself
        vars(made)[kind] = collections.OrderedDict()
    vars(made)["_compiled_call_impl"] = None

    def forward(*args: Any, **kwargs: Any) -> Any:
        count_network_call()
        found = network(*args, **kwargs)
        outputs = (x for x in tree_leaves(found) if isinstance(x, Tensor) and x.requires_grad)
        if (first := next(outputs, None)) is not None:
            count_vjp(first, in_place=True)
        return found

    vars(made)["forward"] = forward
    return made
