"""Gradients through a diffusion sampler, in the memory of one network call."""

from adjointdpm import errors, grids
from adjointdpm.denoiser import Denoiser
from adjointdpm.gradients import Adjoint, Auto, Backprop, Checkpoint, Interpolated, Reversible, Truncated
from adjointdpm.models import from_pipeline, load
from adjointdpm.problem import SamplingObserver
from adjointdpm.samplers import AdamsBashforth, Ancestral, DPMSolverPP, Euler, Heun, Midpoint, ReversibleEuler, RungeKutta4
from adjointdpm.sampling import sample
from adjointdpm.schedule import NoiseSchedule
from adjointdpm.stats import Stats, stats

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
