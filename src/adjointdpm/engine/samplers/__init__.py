"""Samplers, one short file each; a new one is a file here and a line in `SAMPLERS`."""

from collections.abc import Callable

from adjointdpm.engine.samplers.adams_bashforth import AdamsBashforth
from adjointdpm.engine.samplers.ancestral import Ancestral
from adjointdpm.engine.samplers.base import Sampler
from adjointdpm.engine.samplers.dpm_solver_pp import DPMSolverPP
from adjointdpm.engine.samplers.euler import Euler
from adjointdpm.engine.samplers.reversible import ReversibleEuler
from adjointdpm.engine.samplers.runge_kutta import Heun, Midpoint, RungeKutta4
from adjointdpm.support.named_options import resolve_named

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "euler": Euler,
    "heun": Heun,
    "midpoint": Midpoint,
    "runge_kutta_4": RungeKutta4,
    "adams_bashforth": AdamsBashforth,
    "dpm_solver_pp": DPMSolverPP,
    "ancestral": Ancestral,
    "reversible_euler": ReversibleEuler,
}


def resolve(sampler: str | Sampler) -> Sampler:
    """The sampler itself, or the one that a text names: "heun", "adams_bashforth:order=3".

    Raises:
        UnknownNameError: no sampler has that name.
        InvalidInputError: an option is unknown or missing.
        InvalidTypeError: `sampler` is neither a sampler nor a text.

    """
    return resolve_named("sampler", sampler, Sampler, SAMPLERS, "adjointdpm.Euler()")


__all__ = [
    "SAMPLERS",
    "AdamsBashforth",
    "Ancestral",
    "DPMSolverPP",
    "Euler",
    "Heun",
    "Midpoint",
    "ReversibleEuler",
    "RungeKutta4",
    "Sampler",
    "resolve",
]
