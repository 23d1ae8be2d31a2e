"""From what a pipeline's loop ends with to its samples, by the pipeline's own code."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.engine.gradients import Checkpoint
from adjointdpm.engine.torch_internals import outside_function_mode
from adjointdpm.errors import ShapeError, UnsupportedError
from adjointdpm.pipelines.own_call.networks_of_a_call import NetworksOfACall


class Decoding(NetworksOfACall):
    """One call of a pipeline whose scheduler's last step returns the caller's latents.

    Args:
        name: of the pipeline's class, for messages.
        latents: as the pipeline returns them with `output_type="latent"`.

    """

    def __init__(self, name: str, latents: Tensor) -> None:
        super().__init__(Checkpoint())
        self.name, self.latents, self.ended = name, latents, False

    def wrap(self, name: str, network: nn.Module) -> Callable[..., Any]:
        """What the copy of the pipeline calls in place of `network`: no graph before the end."""
        usual = super().wrap(name, network)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.ended:
                return usual(*args, **kwargs)
            with torch.no_grad():
                return usual(*args, **kwargs)

        return call

    def follow(self, scheduler: Any) -> None:
        """Answer the last step of the copy's scheduler."""
        self.scheduler = scheduler
        step = getattr(scheduler, "step", None)
        if step is None:
            raise UnsupportedError(f"{self.name} has no scheduler whose last latents it decodes")

        @functools.wraps(step)  # pipelines look at its signature
        def taken(*args: Any, **kwargs: Any) -> Any:
            with torch.no_grad(), outside_function_mode():
                found = step(*args, **kwargs)
            self.steps += 1
            if self.steps < len(scheduler.timesteps):
                return found
            self.ended = True
            return self._replaced(found)

        vars(scheduler)["step"] = taken

    def _replaced(self, found: Any) -> Any:
        moved = found[0]
        if moved.shape != self.latents.shape:
            raise ShapeError(
                f"latents has shape {tuple(self.latents.shape)}; for these arguments the loop of "
                f"{self.name} ends with {tuple(moved.shape)}"
            )

        def ours(value: Any) -> Any:
            same = isinstance(value, Tensor) and value.shape == moved.shape
            return self.latents.to(value.dtype) if same else value

        if isinstance(found, tuple):
            return tuple(ours(value) for value in found)
        return type(found)(**{key: ours(value) for key, value in found.items()})

    def check_reached(self, results: Any, noise: Any) -> None:
        """Check that the latents went into the sample."""
        if not self.ended:
            raise UnsupportedError(f"the scheduler of {self.name} does not take its last step")
