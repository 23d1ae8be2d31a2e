"""Which of a pipeline's parameters require grad, noted, switched off and put back."""

from typing import Any

from torch import nn

Flags = list[tuple[nn.Parameter, bool]]


def parameters(pipe: Any) -> list[nn.Parameter]:
    """Those of all networks of a diffusers pipeline."""
    return [p for part in pipe.components.values() if isinstance(part, nn.Module) for p in part.parameters()]


def freeze(pipe: Any) -> Flags:
    """Let no parameter require grad: a gradient that nobody asked for costs time and memory in every backward pass. Returns what was."""
    flags = [(parameter, parameter.requires_grad) for parameter in parameters(pipe)]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    return flags


def unfreeze(flags: Flags) -> None:
    """Put back what `freeze` returned."""
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
