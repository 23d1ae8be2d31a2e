"""Adapters from diffusers pipelines, one file a family."""

from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.families import from_pipeline
from adjointdpm.pipelines.inversion import invert, invert_exactly
from adjointdpm.pipelines.loading import load

__all__ = ["DiffusionModel", "from_pipeline", "invert", "invert_exactly", "load"]
