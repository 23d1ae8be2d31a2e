"""Which native sampler and grid repeat a diffusers scheduler.

Gradient methods that solve an ODE themselves need them.
"""

import copy
from itertools import pairwise
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.denoiser import Prediction
from adjointdpm.engine.samplers import SAMPLERS, DPMSolverPP, Euler, Sampler
from adjointdpm.engine.schedules import NoiseSchedule, TableSchedule, option
from adjointdpm.errors import ScheduleError, UnsupportedError
from adjointdpm.pipelines.schedulers import blocked_gradients

PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "v_prediction": "v_prediction",
    "sample": "sample",
    "flow_prediction": "flow",
}
OTHER_SIGMAS = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_flow_sigmas",
    "use_lu_lambdas",
)


def schedule_and_prediction(scheduler: Any) -> tuple[NoiseSchedule, Prediction]:
    """Return the noise schedule of a scheduler and what its network predicts.

    Raises:
        UnsupportedError: its noise levels are not a table in the network's own time, or its
            prediction has no name here.
        ScheduleError: no noise schedule can be read from it.

    """
    name = type(scheduler).__name__
    schedule = NoiseSchedule.from_scheduler(scheduler)
    if not isinstance(schedule, TableSchedule):
        raise UnsupportedError(
            f"{name} does not step through the table of noise levels that native samplers need; "
            "leave sampler=None, or give the pipeline one with such a table if it can take it, "
            "such as DDIMScheduler.from_config(pipe.scheduler.config)"
        )
    prediction = option(scheduler, "prediction_type") or "epsilon"
    if prediction not in PREDICTIONS:
        raise UnsupportedError(
            f"{name} has prediction_type={prediction!r}; native samplers know "
            f"{', '.join(PREDICTIONS)}"
        )
    return schedule, PREDICTIONS[prediction]


def native_equivalent(scheduler: Any) -> tuple[Sampler, Float[Tensor, " times"]]:
    """Return the sampler and the grid with which a gradient method steps as a scheduler does.

    Args:
        scheduler: a diffusers scheduler whose timesteps are set.

    Raises:
        UnsupportedError: there are none; the message says why.

    """
    found = equivalent(scheduler)
    if isinstance(found, str):
        raise UnsupportedError(
            "this gradient method solves an ODE of its own and cannot step "
            f"{type(scheduler).__name__} ({found}); pass a native sampler, "
            "such as sampler=adjointdpm.Euler(), or a method that takes every scheduler, such as "
            'gradient="exact"'
        )
    return found


def equivalent(scheduler: Any) -> tuple[Sampler, Float[Tensor, " times"]] | str:
    """The sampler and the grid that make the same picture as a scheduler, or why there are none.

    Args:
        scheduler: a diffusers scheduler whose timesteps are set.

    """
    reason = next(iter(blocked_gradients(scheduler)), None) or next(
        (f"{name}=True" for name in OTHER_SIGMAS if option(scheduler, name)), None
    )
    times = scheduler.timesteps.to("cpu", torch.float64).tolist()
    sampler: Sampler = Euler()
    if reason is None:
        # Exact classes: what a subclass changed is unknown.
        if type(scheduler) is DDIMScheduler:
            reason = _ddim_differs(scheduler, times)
        elif type(scheduler) is EulerDiscreteScheduler:
            reason = _euler_differs(scheduler)
        elif type(scheduler) is DPMSolverMultistepScheduler:
            reason = _dpm_solver_differs(scheduler, times)
            sampler = DPMSolverPP(order=min(2, scheduler.config["solver_order"]))
        else:
            reason = "no native sampler repeats it"
    # A last step from t = 0 to the table's first entry, which is t = 0, changes nothing.
    grid = times if times[-1] == 0 else [*times, 0.0]
    if reason is None and (
        len(grid) < 2 or any(later >= earlier for earlier, later in pairwise(grid))
    ):
        reason = f"its timesteps {_short(times)} do not decrease to 0"
    if reason is not None:
        return reason
    return sampler, torch.tensor(grid, dtype=torch.float64)


def native_support(scheduler: Any) -> dict[str, dict[str, bool | str]]:
    """Which gradient methods and native samplers work with a scheduler's noise levels, or why not.

    Args:
        scheduler: of a pipeline whose network, schedule and conditioning are known.

    """
    try:
        schedule_and_prediction(scheduler)
        levels: bool | str = True
    except (UnsupportedError, ScheduleError) as error:
        levels = str(error)
    trial = copy.deepcopy(scheduler)
    trial.set_timesteps(10)
    solving = levels
    if levels is True and isinstance(equivalent(trial), str):
        solving = f"only with a native sampler, not with {type(scheduler).__name__}"
    autograd: dict[str, bool | str] = dict.fromkeys(("Checkpoint", "Backprop", "Truncated"), True)
    solvers = dict.fromkeys(("Adjoint", "Interpolated"), solving)
    reversible = "only with the sampler reversible_euler" if levels is True else levels
    return {
        "gradient methods": autograd | solvers | {"Reversible": reversible, "Auto": True},
        "native samplers": dict.fromkeys(SAMPLERS, levels),
    }


def _ddim_differs(scheduler: Any, times: list[float]) -> str | None:
    config = scheduler.config
    if config["set_alpha_to_one"]:
        return "set_alpha_to_one=True ends at a noise level that is not in the table"
    # DDIM steps by T // N, whatever the next of its timesteps is.
    stride = config["num_train_timesteps"] // scheduler.num_inference_steps
    if any(earlier - later != stride for earlier, later in pairwise(times)) or times[-1] >= stride:
        return f"its timesteps {_short(times)} are not {stride} apart, by which it steps"
    return None


def _euler_differs(scheduler: Any) -> str | None:
    config = scheduler.config
    if config["timestep_spacing"] != "leading":
        return (
            f"timestep_spacing={config['timestep_spacing']!r} starts from noise that is not "
            f"variance preserving"
        )
    if config["final_sigmas_type"] != "sigma_min":
        return (
            f"final_sigmas_type={config['final_sigmas_type']!r} ends at a noise level that is not "
            f"in the table"
        )
    if config["interpolation_type"] != "linear" or config["timestep_type"] != "discrete":
        return "its noise levels are not those of its timesteps"
    return None


def _dpm_solver_differs(scheduler: Any, times: list[float]) -> str | None:
    config = scheduler.config
    wanted = {
        "algorithm_type": ("dpmsolver++",),
        "solver_order": (1, 2),
        "solver_type": ("midpoint",),
        "final_sigmas_type": ("sigma_min",),
        "lower_order_final": (True,),
        "euler_at_final": (False,),
    }
    for name, values in wanted.items():
        if config[name] not in values:
            return f"{name}={config[name]!r}"
    return "its last timestep is 0 already" if times[-1] == 0 else None


def _short(times: list[float]) -> str:
    numbers = [f"{t:g}" for t in times]
    return ", ".join(numbers if len(numbers) <= 6 else [*numbers[:3], "…", *numbers[-2:]])
