"""Find the tensors that a network uses besides its arguments and parameters, so that none loses its gradient silently."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import CapturedTensorError

Outputs = tuple[Tensor | None, ...]  # of a function, or of one that returns gradients

REMEDY = "hand it over in cond, make it a parameter of the denoiser, or use Checkpoint()"


def captured_leaves(call: Callable[[], Outputs], known: Iterable[Tensor]) -> tuple[Outputs, list[Tensor]]:
    """Run `call` and return what it returns, detached, with the leaf tensors, not among `known`, that its graph ends in.

    Raises:
        CapturedTensorError: the graph reaches into one that existed before the call: a tensor was captured that is itself the result of
            differentiable operations, and only autograd (Checkpoint, Backprop) can pass a gradient on to those.

    """
    with torch.enable_grad():
        # Autograd numbers its nodes in order of creation: an older node than this marker was there before the call.
        marker = torch.zeros((), requires_grad=True).clone().grad_fn
        outputs = call()
    assert marker is not None
    found = unknown_leaves(outputs, known, marker._sequence_nr())
    return tuple(None if output is None else output.detach() for output in outputs), found


def unknown_leaves(outputs: Outputs, known: Iterable[Tensor], before: int = -1) -> list[Tensor]:
    """The leaf tensors that the graph of `outputs` ends in, apart from `known`.

    Raises:
        CapturedTensorError: the graph has a node that is older than number `before`.

    """
    seen = {id(tensor) for tensor in known}
    found: list[Tensor] = []

    def add(leaf: Tensor) -> None:
        if id(leaf) not in seen:
            seen.add(id(leaf))
            found.append(leaf)

    for output in outputs:
        if output is not None and output.requires_grad and output.is_leaf:
            add(output)
    for node in _nodes(outputs):
        leaf = None if node.next_functions else getattr(node, "variable", None)
        if leaf is not None:
            add(leaf)
        elif node._sequence_nr() < before:
            raise CapturedTensorError(
                f"the denoiser uses a tensor computed outside of it ({node.name()}) that requires grad; "
                f"this gradient method cannot pass a gradient on to it: {REMEDY}"
            )
    return found


def _nodes(outputs: Outputs) -> Iterator[Any]:
    stack: list[Any] = [output.grad_fn for output in outputs if output is not None and output.grad_fn is not None]
    visited: set[Any] = set()
    while stack:
        node = stack.pop()
        if node not in visited:
            visited.add(node)
            yield node
            stack.extend(parent for parent, _ in node.next_functions if parent is not None)
