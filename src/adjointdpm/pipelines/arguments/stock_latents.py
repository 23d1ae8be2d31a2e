"""What a stock pipeline takes as `latents=` to start from given noise: some want it packed."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.pipelines.own_call.initial_noise import PREPARE, NoiseSource, drawing_from
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters, draws_in_prepare
from adjointdpm.pipelines.own_call.twin import twin_of


class _Prepared(Exception):
    """The pipeline has prepared its latents."""

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents


@torch.no_grad()
def stock_latents(
    pipe: Any, noise: Float[Tensor, "batch *shape"], arguments: Mapping[str, Any]
) -> Tensor | None:
    """The `latents` from which the pipeline's own call starts as it does from `noise`.

    The call is run up to where it has prepared its latents, with `noise` drawn and with `latents`
    handed over, and both must have come to the same.

    Args:
        pipe: a diffusers pipeline.
        noise: as `model.noise` makes it.
        arguments: of the call that draws it, with the prompts.

    Returns:
        `noise` itself, or packed; None if the pipeline takes no latents that do.

    """
    if "latents" not in call_parameters(pipe) or not callable(getattr(pipe, PREPARE, None)):
        return None
    source = NoiseSource(noise, everywhere=not draws_in_prepare(pipe))
    with drawing_from(source):
        wanted = _prepared(pipe, arguments)
    if wanted is None or not source.used:
        return None
    for candidate in (noise, wanted):
        try:
            found = _prepared(pipe, {**arguments, "latents": candidate.clone()})
        except (ValueError, RuntimeError):  # of a shape that the pipeline does not take
            continue
        if found is not None and found.shape == wanted.shape and torch.equal(found, wanted):
            return candidate
    return None


def _prepared(pipe: Any, arguments: Mapping[str, Any]) -> Tensor | None:
    """The latents that the call prepares; None if it ends without."""
    twin = twin_of(pipe, lambda name, network: network)
    vars(twin)[PREPARE] = _ending(getattr(twin, PREPARE))
    try:
        twin(**arguments)
    except _Prepared as prepared:
        return prepared.latents
    return None


def _ending(prepare: Callable[..., Any]) -> Callable[..., Any]:
    def ending(*args: Any, **kwargs: Any) -> Any:
        found = prepare(*args, **kwargs)
        tensors = found if isinstance(found, tuple | list) else (found,)
        raise _Prepared(next(x for x in tensors if isinstance(x, Tensor)))

    return ending
