"""Pictures of examples, with and without what is learned: the one place where the product calls the model."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.gradients import GradientMethod
from adjointdpm.samplers import Sampler
from adjointdpm.variables import Variable


class Example(NamedTuple):
    """A prompt and the seed of its noise: together they fix a picture."""

    prompt: str
    seed: int


@dataclass
class CallCounter:
    """Counts forward calls of the denoising network; one call handles a batch, and guidance does not double it."""

    calls: int = 0


@dataclass(frozen=True)
class Renderer:
    """Draws examples with fixed sampling settings.

    Args:
        model: what `adjointdpm.load` returns.
        steps: the number of sampler steps.
        guidance_scale: classifier-free guidance; None is the pipeline's own.
        sampler: a sampler or its name; None is the pipeline's own scheduler.
        gradient: the gradient method or its name.
        chunk: pictures drawn at once where no gradient is needed.

    """

    model: Any
    steps: int = 50
    guidance_scale: float | None = None
    sampler: Sampler | str | None = None
    gradient: GradientMethod | str = "exact"
    chunk: int = 8
    counter: CallCounter = field(default_factory=CallCounter)

    def __call__(self, examples: Sequence[Example], variable: Variable) -> Float[Tensor, "batch 3 height width"]:
        """Unclamped pictures with the variable in place; differentiable with respect to it."""
        prompts, noise = variable.apply([e.prompt for e in examples], self._noise(examples))
        return self._generate(prompts, noise)

    @torch.no_grad()
    def look(self, examples: Sequence[Example], variable: Variable | None = None) -> Float[Tensor, "batch 3 height width"]:
        """Clamped pictures on the CPU, without gradients; with no variable, those of the untouched model."""
        pictures = []
        for start in range(0, len(examples), self.chunk):
            part = examples[start : start + self.chunk]
            images = self._generate([e.prompt for e in part], self._noise(part)) if variable is None else self(part, variable)
            pictures.append(images.clamp(0, 1).float().cpu())
        return torch.cat(pictures)

    def with_gradient(self, gradient: GradientMethod | str) -> Self:
        """The same with another gradient method."""
        return replace(self, gradient=gradient)

    @contextmanager
    def counted(self):
        """Count the network's forward calls inside the block in `counter`."""
        network = getattr(self.model.pipe, "unet", None) or self.model.pipe.transformer

        def count(*_: object) -> None:
            self.counter.calls += 1

        handle = network.register_forward_hook(count)
        try:
            yield self.counter
        finally:
            handle.remove()

    def _noise(self, examples: Sequence[Example]) -> Tensor:
        # Sample 0 of each seed: an example's picture does not depend on the batch that it is drawn in.
        return torch.cat([self.model.noise(1, example.seed) for example in examples])

    def _generate(self, prompts: list[str], noise: Tensor) -> Tensor:
        return self.model.generate(
            prompts, noise, steps=self.steps, guidance_scale=self.guidance_scale, sampler=self.sampler, gradient=self.gradient
        )
