"""Every use of torch's private interface, one function each.

`tests/engine/test_torch_internals.py` checks each of them against the installed torch. If a new
version of torch breaks one, this is the only file to change.
"""

# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _pop_mode_temporarily


def in_functorch_transform(tensor: Tensor) -> bool:
    """Whether `tensor` belongs to a running torch.func transform (grad, vmap, jvp)."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def saved_tensor_hooks() -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]] | None:
    """The innermost pair of saved-tensor hooks, None outside of all."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def backward_retains_graph() -> bool:
    """Whether the running backward pass was called with `retain_graph=True`."""
    return torch._C._autograd._get_current_graph_task_keep_graph()


def will_run(node: Any) -> bool:
    """Whether the running backward pass needs the gradient of this autograd node."""
    return torch._C._will_engine_execute_node(node)


def node_number(node: Any) -> int:
    """The number of an autograd node: each thread counts its nodes in order of creation."""
    return node._sequence_nr()


def next_node_number() -> int:
    """The number that a node created now gets."""
    return node_number(torch.zeros((), requires_grad=True).clone().grad_fn)


def change_count(tensor: Tensor) -> int:
    """How often `tensor` was changed in place; 0 for inference tensors, which do not count."""
    return 0 if tensor.is_inference() else tensor._version


def base_of(tensor: Tensor) -> Tensor:
    """The tensor that `tensor` is a view of, or itself."""
    return tensor if tensor._base is None else tensor._base


def is_compiled(module: nn.Module) -> bool:
    """Whether this module was compiled, by `torch.compile(module)` or `module.compile()`."""
    return (
        "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
    )


def uncompiled(network: Any) -> Any:
    """What `torch.compile` was given to make `network`, or `network` itself."""
    return getattr(network, "_orig_mod", network)


def outside_function_mode() -> AbstractContextManager[Any]:
    """Return a context in which the innermost `TorchFunctionMode` does not act, if there is one."""
    if torch._C._len_torch_function_stack() == 0:
        return nullcontext()
    return _pop_mode_temporarily()


def target_of_to(*args: Any, **kwargs: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and the dtype that the arguments of `Tensor.to` and `Module.to` ask for."""
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    return device, dtype
