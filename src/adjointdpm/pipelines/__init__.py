"""Adapters from diffusers pipelines, one file a family."""

from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.examples import Example, Inputs
from adjointdpm.pipelines.inversion import invert, invert_exactly
from adjointdpm.pipelines.loading import from_pipeline, load

__all__ = [
    "DiffusionModel",
    "Example",
    "Inputs",
    "from_pipeline",
    "invert",
    "invert_exactly",
    "load",
]
