"""Weights that a pipeline should have and has not: found before any work is done."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

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
                f"{part} ({type(network).__name__}) has {count(lacking)} without values, on "
                f"the meta device: {listed(lacking)}; the pipeline was built without weights, or "
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
                f"{count(lacking)}: {listed(lacking)}; save or download them again"
            )


def check_finite(pipe: Any) -> None:
    """Check that no weight of a pipeline is NaN or infinite.

    This reads all weights once. Those of other layouts (quantised, sharded, elsewhere) are left.

    Raises:
        ModelError: one is; the message names it.

    """
    for part, network in _networks(pipe):
        wrong = [name for name, tensor in network.named_parameters() if not _is_finite(tensor)]
        # A mask may hold infinite values, but nothing holds NaN on purpose.
        wrong += [
            name
            for name, tensor in network.named_buffers()
            if not _is_finite(tensor) and bool(tensor.float().isnan().any())
        ]
        if wrong:
            raise ModelError(
                f"{part} ({type(network).__name__}) has {count(wrong)} with NaN or infinite "
                f"values: {listed(wrong)}; every picture would be NaN or black: save or download "
                "the weights again, or load them in bfloat16 or float32 if they overflow in float16"
            )


@torch.no_grad()
def _is_finite(tensor: Tensor) -> bool:
    """Whether all values are; True for what cannot be looked at."""
    values = tensor.data
    if type(values) is not Tensor or values.is_meta or not values.is_floating_point():
        return True
    values = values if values.dtype.itemsize > 1 else values.to(torch.float16)
    # One pass without a copy. A sum that overflows is looked at again.
    return bool(values.sum(dtype=torch.float32).isfinite()) or bool(values.isfinite().all())


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


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def count(names: list[str]) -> str:
    """How many tensors these are, in words."""
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''}"
