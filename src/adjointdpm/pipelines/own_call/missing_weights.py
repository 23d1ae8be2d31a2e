"""Weights that a pipeline should have and has not: found before any work is done."""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

from adjointdpm.errors import ModelError

# transformers marks what it read from a file, and draws the rest at random with a mere log message.
_READ = "_is_hf_initialized"
_SHOWN = 3


def check_weights(pipe: Any) -> None:
    """Check that no network of a pipeline is on the meta device, where tensors hold no values.

    Weights that accelerate keeps elsewhere and brings back for each call are no fault.

    Raises:
        ModelError: a network is; the message names it and some of its tensors.

    """
    for part, network in _networks(pipe):
        lacking = list(_on_meta(network))
        if lacking:
            raise ModelError(
                f"{part} ({type(network).__name__}) has {len(lacking)} tensors without values, on "
                f"the meta device: {_listed(lacking)}; the pipeline was built without weights, or "
                "its file lacks them: load it with from_pretrained from complete files"
            )


def check_loaded(pipe: Any, source: str) -> None:
    """Check that every weight of a pipeline came from its files.

    Raises:
        ModelError: the files lack a weight; the message names it.

    """
    for part, network in _networks(pipe):
        lacking = [*_on_meta(network), *_random(network)]
        if lacking:
            raise ModelError(
                f"{source!r}: the weights of {part} ({type(network).__name__}) lack "
                f"{len(lacking)} tensors: {_listed(lacking)}; save or download them again"
            )


def _networks(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            yield name, part


def _on_meta(network: nn.Module) -> Iterator[str]:
    for path, part in network.named_modules():
        own = (vars(part)["_parameters"], vars(part)["_buffers"])
        absent = [
            k
            for named in own
            for k, tensor in named.items()
            if tensor is not None and tensor.is_meta
        ]
        if absent and not getattr(getattr(part, "_hf_hook", None), "offload", False):
            yield from (f"{path}.{name}".removeprefix(".") for name in absent)


def _random(network: nn.Module) -> list[str]:
    """The parameters of a model of transformers that no file had."""
    if getattr(network, "is_quantized", False):  # their files have other names
        return []
    ignored = getattr(network, "_keys_to_ignore_on_load_missing", None) or ()
    named = list(network.named_parameters())
    lacking = [name for name, parameter in named if not getattr(parameter, _READ, False)]
    if len(lacking) == len(named):  # made in another way than from a file
        return []
    return [name for name in lacking if not any(re.search(key, name) for key in ignored)]


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
