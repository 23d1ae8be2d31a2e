"""Which of a pipeline's parameters require grad, noted, switched off and put back."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Flags = list[tuple[nn.Parameter, bool]]


def parameters(pipe: Any) -> list[nn.Parameter]:
    """The parameters of all networks of a diffusers pipeline."""
    return [
        p
        for part in pipe.components.values()
        if isinstance(part, nn.Module)
        for p in part.parameters()
    ]


def freeze(pipe: Any, but: Iterable[Tensor] = ()) -> Flags:
    """Let no parameter require grad, apart from those in `but`, which stay as they are.

    A gradient that nobody asked for costs time and memory in every backward pass.

    Returns:
        What the flags were, for `unfreeze`.

    """
    learned = {id(tensor) for tensor in but}
    flags = [(p, p.requires_grad) for p in parameters(pipe) if id(p) not in learned]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    return flags


def unfreeze(flags: Flags) -> None:
    """Put back what `freeze` returned."""
    for parameter, flag in flags:
        parameter.requires_grad_(flag)


@contextmanager
def frozen(pipe: Any, but: Iterable[Tensor] = ()) -> Iterator[None]:
    """Inside, the parameters are as `freeze` leaves them; afterwards, as they were before."""
    flags = freeze(pipe, but)
    try:
        yield
    finally:
        unfreeze(flags)
