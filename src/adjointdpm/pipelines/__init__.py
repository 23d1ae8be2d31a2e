"""Adapters from diffusers pipelines, one file a family."""

from adjointdpm.pipelines import any_pipeline, stable_diffusion
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.examples import Example, Inputs
from adjointdpm.pipelines.inversion import invert, invert_exactly
from adjointdpm.pipelines.loading import from_pipeline, load
from adjointdpm.support.argument_types import explain_types

__all__ = [
    "DiffusionModel",
    "Example",
    "Inputs",
    "from_pipeline",
    "invert",
    "invert_exactly",
    "load",
]

explain_types(globals(), __all__)
explain_types(any_pipeline.__dict__, ("AnyPipeline",))
explain_types(stable_diffusion.__dict__, ("StableDiffusion",))
