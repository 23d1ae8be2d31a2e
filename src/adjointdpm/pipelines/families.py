"""The pipeline classes that are known: a new family is a file here and a line in `FAMILIES`."""

from typing import Any

import diffusers

from adjointdpm.errors import ModelError
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.stable_diffusion import StableDiffusion

FAMILIES: dict[str, type[DiffusionModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
}


def from_pipeline(pipe: Any) -> DiffusionModel:
    """Make a pipeline differentiable.

    The pipeline is used as it is: its weights keep their `requires_grad`, and what requires grad
        (with diffusers' `from_pretrained`, all
    weights) costs its gradient in every backward pass. `pipe.unet.requires_grad_(False)` and
    likewise for the others avoids that.

    Args:
        pipe: a loaded diffusers pipeline of a known class, or a subclass that keeps its `__call__`.

    Raises:
        ModelError: not a pipeline, not of a known class, or incomplete.
        ScheduleError: its scheduler has zero terminal SNR with epsilon prediction.

    Warns:
        AdjointDPMWarning: once, if something in the pipeline blocks gradients or is left out.

    """
    if not isinstance(pipe, diffusers.DiffusionPipeline):
        raise ModelError(
            f"from_pipeline takes a diffusers pipeline, not {type(pipe).__name__}; to load one by "
            f"name use adjointdpm.load"
        )
    for cls in type(pipe).__mro__:
        if (
            cls.__name__ in FAMILIES
            and type(pipe).__call__ is getattr(diffusers, cls.__name__).__call__
        ):
            return FAMILIES[cls.__name__](pipe)
    raise unknown_family(type(pipe).__name__)


def unknown_family(name: object) -> ModelError:
    """The error for a pipeline class that is not registered."""
    return ModelError(
        f"pipelines of class {name} are not supported; known are {', '.join(FAMILIES)}"
    )
