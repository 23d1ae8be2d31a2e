"""Adapters from diffusers pipelines, one file a family."""

from adjointdpm.models.families import from_pipeline
from adjointdpm.models.inverted import invert, invert_exactly
from adjointdpm.models.loading import load
from adjointdpm.models.model import DiffusionModel

__all__ = ["DiffusionModel", "from_pipeline", "invert", "invert_exactly", "load"]
