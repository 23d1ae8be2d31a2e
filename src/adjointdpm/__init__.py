"""Gradients through a diffusion sampler, in the memory of one network call."""

from adjointdpm import errors
from adjointdpm.engine import grids
from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.engine.gradients import (
    Adjoint,
    Auto,
    Backprop,
    Checkpoint,
    Interpolated,
    Reversible,
    Truncated,
)
from adjointdpm.engine.problem import SamplingObserver
from adjointdpm.engine.samplers import (
    AdamsBashforth,
    Ancestral,
    DPMSolverPP,
    Euler,
    Heun,
    Midpoint,
    ReversibleEuler,
    RungeKutta4,
)
from adjointdpm.engine.sampling import sample
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.engine.stats import Stats, stats
from adjointdpm.pipelines import from_pipeline, load
from adjointdpm.support.argument_types import explain_types

__version__ = "0.1.0"

__all__ = [
    "AdamsBashforth",
    "Adjoint",
    "Ancestral",
    "Auto",
    "Backprop",
    "Checkpoint",
    "DPMSolverPP",
    "Denoiser",
    "Euler",
    "Heun",
    "Interpolated",
    "Midpoint",
    "NoiseSchedule",
    "Reversible",
    "ReversibleEuler",
    "RungeKutta4",
    "SamplingObserver",
    "Stats",
    "Truncated",
    "errors",
    "from_pipeline",
    "grids",
    "load",
    "sample",
    "stats",
]

explain_types(globals(), __all__)
