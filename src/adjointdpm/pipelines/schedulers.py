"""A pipeline's own scheduler: what stands in the way of its gradients, and its loop as the pipeline
runs it.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.grids import check_steps
from adjointdpm.engine.schedules import option
from adjointdpm.engine.seeded_noise import mix
from adjointdpm.errors import InvalidInputError, ScheduleError, UnsupportedError

Generators = torch.Generator | list[torch.Generator]
# Keeps what a scheduler draws for a sample apart from the noise that somebody makes of the same
# seed.
_DRAWS = 0x5C4ED01E


def start(scheduler: Any, steps: int, device: torch.device) -> Any:
    """A copy of `scheduler` set to `steps` steps, so that the pipeline's own keeps its state.

    Not `copy.deepcopy`: multistep schedulers hold the tensors of their last run, and those of a
    differentiable run cannot be copied.

    Raises:
        InvalidInputError, InvalidTypeError: the scheduler cannot take so many steps, or `steps` is
            not an int of at least 1.

    """
    check_steps(steps)
    twin = _twin(scheduler)
    try:
        twin.set_timesteps(steps, device=device)
    except (ValueError, IndexError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        raise InvalidInputError(
            f"{type(scheduler).__name__} cannot take steps={steps}: {error}"
        ) from error
    return twin


def _twin(scheduler: Any) -> Any:
    twin = copy.copy(scheduler)
    for name, value in vars(twin).items():
        if isinstance(value, list | dict):
            setattr(twin, name, copy.copy(value))
        elif isinstance(value, SchedulerMixin):
            setattr(twin, name, _twin(value))
    return twin


def run(
    scheduler: Any,
    network: Callable[[Tensor, Tensor], Tensor],
    noise: Float[Tensor, "batch *shape"],
    step_arguments: dict[str, Any],
) -> Float[Tensor, "batch *shape"]:
    """Take `noise` to x_0 by the scheduler's own, unmodified `step`, under autograd if that is on.

    Args:
        scheduler: from `start`; it is used up.
        network: `network(x, t) -> output`, t float32 `[B]`; called once for each of
            `scheduler.timesteps`.
        noise: `[B, …]`, unit variance; the scheduler's `init_noise_sigma` is applied here.
        step_arguments: what the pipeline passes to this scheduler's `step` besides output, time and
            state.

    """
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = network(
            scheduler.scale_model_input(x, t), t.to(noise.device, torch.float32).expand(len(x))
        )
        x = scheduler.step(output, t, x, **step_arguments, return_dict=False)[0].to(noise.dtype)
    return x


def sample_generators(
    scheduler: Any, batch: int, seeds: Sequence[int] | None
) -> list[torch.Generator]:
    """One CPU generator a sample, so that a stochastic scheduler repeats itself exactly.

    Args:
        scheduler: from `start`; one that draws from generators of its own (`DPMSolverSDEScheduler`)
            is given seeds for them, unless it has one by its configuration and `seeds` is None.
        batch: B.
        seeds: what each sample's draws depend on, alone; None: its place in the batch.

    """
    numbers = list(range(batch)) if seeds is None else [mix(_DRAWS, seed) for seed in seeds]
    if hasattr(scheduler, "noise_sampler_seed") and (
        seeds is not None or scheduler.noise_sampler_seed is None
    ):
        scheduler.noise_sampler_seed = numbers
    return [torch.Generator("cpu").manual_seed(number) for number in numbers]


def check_prediction(scheduler: Any) -> None:
    """Raise for a scheduler with which the pipeline cannot draw.

    Raises:
        UnsupportedError: it has no `init_noise_sigma` and no `scale_model_input`, on which the
            pipeline's loop relies (flow matching).
        ScheduleError: it starts where the network's prediction says nothing about the picture.

    """
    lacking = [
        name
        for name in ("init_noise_sigma", "scale_model_input", "timesteps", "set_timesteps")
        if not hasattr(scheduler, name)
    ]
    if lacking:
        raise UnsupportedError(
            f"{type(scheduler).__name__} has no {' and no '.join(lacking)}, which this pipeline "
            "needs; give it one such as DDIMScheduler (all of them: "
            f"{', '.join(sorted(c.__name__ for c in DDIMScheduler().compatibles))})"
        )
    if (
        option(scheduler, "rescale_betas_zero_snr")
        and option(scheduler, "prediction_type") == "epsilon"
    ):
        raise ScheduleError(
            f"{type(scheduler).__name__} has zero terminal SNR (rescale_betas_zero_snr=True) with "
            "prediction_type='epsilon': at its first step the picture would be divided by 0. If "
            "the network predicts v, set prediction_type='v_prediction'; if it predicts epsilon, "
            f"set rescale_betas_zero_snr=False"
        )


def blocked_gradients(scheduler: Any) -> list[str]:
    """What in the scheduler's configuration zeroes gradients wherever it acts, in words that say
    what to do.
    """
    name = type(scheduler).__name__
    return [
        f"{name} {action} its predicted samples ({setting}=True), and gradients are silently zero "
        f"wherever that acts; set pipe.scheduler = {name}.from_config(pipe.scheduler.config, "
        f"{setting}=False)"
        for setting, action in (("clip_sample", "clips"), ("thresholding", "thresholds"))
        if option(scheduler, setting)
    ]
