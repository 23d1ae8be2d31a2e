"""Find the tensors that a network uses besides its arguments and parameters.

Otherwise they would lose their gradients silently.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from adjointdpm.engine.torch_internals import next_node_number, node_number
from adjointdpm.errors import CapturedTensorError, ChangedTensorError

Outputs = tuple[Tensor | None, ...]  # of a function, or of one that returns gradients

REMEDY = "hand it over in cond, make it a parameter of the denoiser, or use Checkpoint()"


def captured_leaves(
    call: Callable[[], Outputs], known: Iterable[Tensor]
) -> tuple[Outputs, list[Tensor]]:
    """Run `call`; return its detached outputs, and the leaf tensors in which its graph ends.

    Leaves that are `known` are left out.

    Raises:
        CapturedTensorError: the graph reaches into one that existed before the call. So a captured
            tensor is itself the result of differentiable operations, and only autograd
            (Checkpoint, Backprop) can pass a gradient on to it.

    """
    with torch.enable_grad():
        # Autograd numbers the nodes in order of creation: those of the call lie between these.
        first = next_node_number()
        outputs = call()
        found = unknown_leaves(outputs, known, range(first, next_node_number()))
    return tuple(None if output is None else output.detach() for output in outputs), found


def unknown_leaves(
    outputs: Outputs, known: Iterable[Tensor], numbers: range | None = None
) -> list[Tensor]:
    """The leaf tensors in which the graph of `outputs` ends, apart from `known`.

    Raises:
        CapturedTensorError: the graph has a node whose number is not one of `numbers`.

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
        elif numbers is not None and node_number(node) not in numbers:
            raise CapturedTensorError(
                f"the denoiser uses a tensor computed outside of it ({node.name()}) that requires "
                f"grad; this gradient method cannot pass a gradient on to it: {REMEDY}"
            )
    return found


def check_wanted(tensors: Iterable[Tensor]) -> None:
    """Check that tensors that required grad when sampling still do.

    Raises:
        ChangedTensorError: one of them does not, so that no recomputed graph can end in it.

    """
    for tensor in tensors:
        if not tensor.requires_grad:
            raise ChangedTensorError(
                f"requires_grad of a tensor of shape {tuple(tensor.shape)} was turned off between "
                "sampling and the backward pass, which runs the network again; turn it off after "
                f"backward(), or sample again"
            )


def _nodes(outputs: Outputs) -> Iterator[Any]:
    stack: list[Any] = [
        output.grad_fn for output in outputs if output is not None and output.grad_fn is not None
    ]
    visited: set[Any] = set()
    while stack:
        node = stack.pop()
        if node not in visited:
            visited.add(node)
            yield node
            stack.extend(parent for parent, _ in node.next_functions if parent is not None)
