"""The networks of a pipeline that variables change, without the wrappers around them."""

from typing import Any, NamedTuple

from torch import nn

from adjointdpm.errors import InvalidInputError
from adjointdpm.pipelines.own_call.twin import is_recomputed


class TextEncoder(NamedTuple):
    """A text encoder and its tokenizer, by their names in the pipeline."""

    encoder: str
    tokenizer: str


def unwrapped(network: Any) -> Any:
    """The module inside `torch.compile` and `DataParallel`, whose names go into saved files."""
    while True:
        if hasattr(network, "_orig_mod"):
            network = network._orig_mod
        elif isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            network = network.module
        else:
            return network


def denoiser(pipe: Any) -> tuple[str, Any]:
    """The name and the module of the network of the loop: the UNet, transformer or largest other.

    Raises:
        InvalidInputError: there is none.

    """
    parts = {
        name: unwrapped(part)
        for name, part in pipe.components.items()
        if isinstance(part, nn.Module)
    }
    for name in ("unet", "transformer"):
        if name in parts:
            return name, parts[name]
    looped = {name: part for name, part in parts.items() if is_recomputed(part)}
    for name in ("decoder", "prior"):
        if name in looped:
            return name, looped[name]
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in looped.items()}
    if not sizes:
        raise InvalidInputError(
            f"{type(pipe).__name__} has neither a UNet nor a transformer that could be changed"
        )
    largest = max(sizes, key=lambda name: sizes[name])
    return largest, parts[largest]


def text_encoders(pipe: Any) -> list[TextEncoder]:
    """The text encoders that look words up in a table, in the pipeline's order."""
    found = []
    for number in ("", "_2", "_3", "_4"):
        names = TextEncoder(f"text_encoder{number}", f"tokenizer{number}")
        encoder, tokenizer = (
            getattr(pipe, names.encoder, None),
            getattr(pipe, names.tokenizer, None),
        )
        has_table = callable(getattr(encoder, "get_input_embeddings", None))
        if isinstance(encoder, nn.Module) and has_table and hasattr(tokenizer, "add_tokens"):
            found.append(names)
    return found
