"""A pipeline's own scheduler: the loop around it, and what in it blocks gradients."""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

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
# What a scheduler draws for a sample must differ from the noise made from the same seed.
_DRAWS = 0x5C4ED01E


class SchedulerLoop:
    """A pipeline's loop around its own scheduler, whose `step` runs unmodified.

    This is the loop of flow-matching pipelines: the state starts as the noise, and the network gets
    the state itself. A family whose pipeline does something else overrides the method concerned.

    Args:
        scheduler: a diffusers scheduler. A copy of it runs, so that the pipeline's own keeps its
            state.
        steps: the number of steps.
        device: where the scheduler's tables are to be.

    Attributes:
        scheduler: the copy, set to `steps` steps; `run` uses it up.
        needs: what the loop uses of a scheduler.

    Raises:
        InvalidInputError, InvalidTypeError: the scheduler cannot take so many steps, or `steps` is
            not an int of at least 1.

    """

    needs: ClassVar[tuple[str, ...]] = ("timesteps", "set_timesteps", "step")

    def __init__(self, scheduler: Any, steps: int, device: torch.device) -> None:
        self.scheduler = start(scheduler, steps, device)

    @property
    def calls(self) -> int:
        """How often `run` calls the network."""
        return len(self.scheduler.timesteps)

    def initial_scale(self) -> float | Tensor:
        """The standard deviation of the state at the start."""
        return 1.0

    def network_input(self, x: Tensor, t: Tensor) -> Tensor:
        """What the network gets for the state `x`."""
        return x

    def step_arguments(self, generator: Generators) -> dict[str, Any]:
        """What the pipeline passes to `step` besides output, time and state."""
        taken = inspect.signature(self.scheduler.step).parameters
        arguments = {"eta": 0.0, "generator": generator}
        return {name: value for name, value in arguments.items() if name in taken}

    def generators(self, batch: int, seeds: Sequence[int] | None) -> list[torch.Generator]:
        """Make one CPU generator a sample, so that a stochastic scheduler repeats itself exactly.

        A scheduler that draws from generators of its own (`DPMSolverSDEScheduler`) is given seeds
        for them, unless it has one by its configuration and `seeds` is None.

        Args:
            batch: B.
            seeds: what each sample's draws depend on; None: its place in the batch.

        """
        numbers = list(range(batch)) if seeds is None else [draw_seed(seed) for seed in seeds]
        if hasattr(self.scheduler, "noise_sampler_seed") and (
            seeds is not None or self.scheduler.noise_sampler_seed is None
        ):
            self.scheduler.noise_sampler_seed = numbers
        return [torch.Generator("cpu").manual_seed(number) for number in numbers]

    def run(
        self,
        network: Callable[[Tensor, Tensor], Tensor],
        noise: Float[Tensor, "batch *shape"],
        generator: Generators,
        note: Callable[[int, str, Tensor], None] | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        """Take `noise` to x_0, under autograd if that is on.

        Args:
            network: `network(x, t) -> output`, t float32 `[B]` in the unit of the scheduler's
                timesteps; called once for each of them.
            noise: `[B, …]`, unit variance.
            generator: what a stochastic scheduler draws from.
            note: called as `note(step, name of the scheduler, x)` after every step, counted from 1.

        """
        arguments = self.step_arguments(generator)
        x = noise * self.initial_scale()
        for step, t in enumerate(self.scheduler.timesteps, start=1):
            times = t.to(noise.device, torch.float32).expand(len(x))
            output = network(self.network_input(x, t), times)
            x = self.scheduler.step(output, t, x, **arguments, return_dict=False)[0].to(noise.dtype)
            if note is not None:
                note(step, type(self.scheduler).__name__, x)
        return x


class ScaledSchedulerLoop(SchedulerLoop):
    """The loop of Stable Diffusion and its relatives: the scheduler scales noise and input."""

    needs = (*SchedulerLoop.needs, "init_noise_sigma", "scale_model_input")

    def initial_scale(self) -> float | Tensor:
        """The scheduler's `init_noise_sigma`."""
        return self.scheduler.init_noise_sigma

    def network_input(self, x: Tensor, t: Tensor) -> Tensor:
        """The scheduler's `scale_model_input`."""
        return self.scheduler.scale_model_input(x, t)


def draw_seed(seed: int) -> int:
    """The seed of the generator from which a scheduler draws for a sample."""
    return mix(_DRAWS, seed)


def start(scheduler: Any, steps: int, device: torch.device) -> Any:
    """Return a copy of `scheduler`, set to `steps` steps.

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
    # No deepcopy: multistep schedulers hold the tensors of their last run, and those of a
    # differentiable run cannot be copied.
    twin = copy.copy(scheduler)
    for name, value in vars(twin).items():
        if isinstance(value, list | dict):
            setattr(twin, name, copy.copy(value))
        elif isinstance(value, SchedulerMixin):
            setattr(twin, name, _twin(value))
    return twin


# What the schedulers of diffusers know; some have no such setting.
_PREDICTIONS = (None, "epsilon", "sample", "original_sample", "v_prediction", "flow_prediction")
_PREDICTIONS += ("trigflow",)


def check_scheduler(scheduler: Any, needs: Sequence[str]) -> None:
    """Check that a pipeline can draw with a scheduler.

    Args:
        scheduler: the pipeline's.
        needs: the attributes that the pipeline's loop uses.

    Raises:
        UnsupportedError: it lacks one of them.
        ScheduleError: it starts where the network's prediction says nothing about the picture, or
            its prediction is one that diffusers does not know.

    """
    lacking = [name for name in needs if not hasattr(scheduler, name)]
    if lacking:
        raise UnsupportedError(
            f"{type(scheduler).__name__} has no {' and no '.join(lacking)}, which this pipeline "
            "needs; give it one such as DDIMScheduler (all of them: "
            f"{', '.join(sorted(c.__name__ for c in DDIMScheduler().compatibles))})"
        )
    prediction = option(scheduler, "prediction_type")
    if type(scheduler).__module__.startswith("diffusers.") and prediction not in _PREDICTIONS:
        raise ScheduleError(
            f"{type(scheduler).__name__} has prediction_type={prediction!r}, which diffusers does "
            f"not know; its scheduler_config.json may be damaged"
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
    """Name the settings of a scheduler that zero gradients, and say what to do about each."""
    name = type(scheduler).__name__
    return [
        f"{name} {action} its predicted samples ({setting}=True), and gradients are silently zero "
        f"wherever that acts; set pipe.scheduler = {name}.from_config(pipe.scheduler.config, "
        f"{setting}=False)"
        for setting, action in (("clip_sample", "clips"), ("thresholding", "thresholds"))
        if option(scheduler, setting)
    ]
