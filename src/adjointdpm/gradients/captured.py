"""Find the tensors that a network uses besides its arguments and parameters, so that none loses its gradient silently."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from adjointdpm.errors import CapturedTensorError


def captured_leaves(call: Callable[[], Tensor], known: Iterable[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Run `call` and return its detached output with the leaf tensors, not among `known`, that its graph ends in.

    Raises:
        CapturedTensorError: the graph reaches into one that existed before the call: a tensor was captured that is itself the result of
            differentiable operations, and only autograd (Checkpoint, Backprop) can pass a gradient on to those.

    """
    seen_ids = {id(tensor) for tensor in known}
    with torch.enable_grad():
        # Autograd numbers its nodes in order of creation: an older node than this marker was there before the call.
        marker = torch.zeros((), requires_grad=True).clone().grad_fn
        output = call()
    assert marker is not None
    before = marker._sequence_nr()
    found: list[Tensor] = []
    stack, visited = [output.grad_fn] if output.grad_fn is not None else [], set()
    while stack:
        node = stack.pop()
        if node in visited:
            continue
        visited.add(node)
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor):
            if id(leaf) not in seen_ids:
                seen_ids.add(id(leaf))
                found.append(leaf)
            continue
        if node._sequence_nr() < before:
            raise CapturedTensorError(
                f"the denoiser uses a tensor computed outside of it ({node.name()}) that requires grad; "
                "this gradient method cannot pass a gradient on to it: "
                "hand it over in cond, make it a parameter of the denoiser, or use Checkpoint()"
            )
        stack.extend(parent for parent, _ in node.next_functions if parent is not None)
    return output.detach(), found
