"""Find the tensors that a network uses besides its arguments and parameters, so that none loses its gradient silently."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import CapturedTensorError

REMEDY = "hand it over in cond, make it a parameter of the denoiser, or use Checkpoint()"


def captured_leaves(call: Callable[[], Tensor], known: Iterable[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Run `call` and return its detached output with the leaf tensors, not among `known`, that its graph ends in.

    Raises:
        CapturedTensorError: the graph reaches into one that existed before the call: a tensor was captured that is itself the result of
            differentiable operations, and only autograd (Checkpoint, Backprop) can pass a gradient on to those.

    """
    with torch.enable_grad():
        # Autograd numbers its nodes in order of creation: an older node than this marker was there before the call.
        marker = torch.zeros((), requires_grad=True).clone().grad_fn
        output = call()
    assert marker is not None
    return output.detach(), unknown_leaves(output, known, marker._sequence_nr())


def unknown_leaves(output: Tensor, known: Iterable[Tensor], before: int = -1) -> list[Tensor]:
    """The leaf tensors that the graph of `output` ends in, apart from `known`.

    Raises:
        CapturedTensorError: the graph has a node that is older than number `before`.

    """
    seen = {id(tensor) for tensor in known}
    found: list[Tensor] = []
    for node in _nodes(output):
        leaf = None if node.next_functions else getattr(node, "variable", None)
        if leaf is not None:
            if id(leaf) not in seen:
                seen.add(id(leaf))
                found.append(leaf)
        elif node._sequence_nr() < before:
            raise CapturedTensorError(
                f"the denoiser uses a tensor computed outside of it ({node.name()}) that requires grad; "
                f"this gradient method cannot pass a gradient on to it: {REMEDY}"
            )
    return found


def _nodes(output: Tensor) -> Iterator[Any]:
    stack: list[Any] = [] if output.grad_fn is None else [output.grad_fn]
    visited: set[Any] = set()
    while stack:
        node = stack.pop()
        if node not in visited:
            visited.add(node)
            yield node
            stack.extend(parent for parent, _ in node.next_functions if parent is not None)
