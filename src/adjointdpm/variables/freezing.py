"""Which of a pipeline's parameters require grad, noted, switched off and put back."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Flags = list[tuple[nn.Parameter, bool]]


def parameters(pipe: Any) -> list[nn.Parameter]:
    """Those of all networks of a diffusers pipeline."""
    return [
        p
        for part in pipe.components.values()
        if isinstance(part, nn.Module)
        for p in part.parameters()
    ]


def freeze(pipe: Any) -> Flags:
    """Let no parameter require grad: a gradient that nobody asked for costs time and memory in
    every backward pass. Returns what was.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in parameters(pipe)]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    return flags


def unfreeze(flags: Flags) -> None:
    """Put back what `freeze` returned."""
    for parameter, flag in flags:
        parameter.requires_grad_(flag)


@contextmanager
def frozen(pipe: Any, but: Iterable[Tensor] = ()) -> Iterator[None]:
    """Inside, no parameter of a pipeline requires grad but those that are learned; afterwards, in
    any case, each as it was before.

    Args:
        pipe: a diffusers pipeline.
        but: tensors that are left as they are.

    """
    learned = {id(tensor) for tensor in but}
    flags = [
        (parameter, parameter.requires_grad)
        for parameter in parameters(pipe)
        if id(parameter) not in learned
    ]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        unfreeze(flags)
