"""Pictures of examples, with and without what is learned.

The tasks call the model nowhere else.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.samplers import Sampler
from adjointdpm.metrics import Metric, check_samples, score
from adjointdpm.metrics.base import Samples
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.pipelines.arguments.generation import is_encoded
from adjointdpm.pipelines.arguments.prompting import NOTHING, reads
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters
from adjointdpm.variables import Example, Inputs, Variable

Drawn = Float[Tensor, "batch *sample"]  # pictures, videos or sound

#: Fixes what a metric draws at random, wherever scores are compared with others.
LOOK = "look"


@dataclass(frozen=True)
class Renderer:
    """Draws examples with fixed sampling settings.

    An example looks the same in every batch and process, whatever the scheduler draws.

    Args:
        model: what `adjointdpm.load` returns.
        steps: the number of sampler steps.
        guidance_scale: classifier-free guidance; None is the pipeline's own.
        sampler: a sampler or its name; None is the pipeline's own scheduler.
        gradient: the gradient method or its name.
        chunk: pictures drawn or scored at once where no gradient is needed.
        noises: initial noise `[1, …]` of examples that do not start from their seed's.
        arguments: further ones of the pipeline's call, such as height or negative_prompt.
        watch: sees what `draw` draws: the examples, their pictures, and whether what is learned was
            in place.

    """

    model: Any
    steps: int = 50
    guidance_scale: float | None = None
    sampler: Sampler | str | None = None
    gradient: GradientMethod | str = "exact"
    chunk: int = 8
    noises: Mapping[Example, Tensor] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    watch: Callable[[Sequence[Example], Drawn, bool], None] | None = None

    def __call__(self, examples: Sequence[Example], variable: Variable) -> Drawn:
        """Unclamped pictures with the variable in place; differentiable with respect to it."""
        return self._generate(variable.apply(self._inputs(examples)))

    @torch.no_grad()
    def draw(
        self, examples: Sequence[Example], variable: Variable | None = None
    ) -> Iterator[tuple[Sequence[Example], Drawn]]:
        """Pictures as training sees them: unclamped, on the model's device; without gradients.

        Args:
            examples: what to draw.
            variable: what is learned; None draws the untouched model's pictures.

        Yields:
            The examples, `chunk` at a time, and their pictures.

        """
        for start in range(0, len(examples), self.chunk):
            part = examples[start : start + self.chunk]
            if variable is None:
                drawn = self._generate(self._inputs(part))
            else:
                drawn = self(part, variable)
            if self.watch is not None:
                self.watch(part, drawn, variable is not None)
            yield part, drawn

    def look(self, examples: Sequence[Example], variable: Variable | None = None) -> Drawn:
        """Pictures as they are shown and saved: clamped, in float32 on the CPU."""
        return torch.cat(
            [images.clamp(0, 1).float().cpu() for _, images in self.draw(examples, variable)]
        )

    @torch.no_grad()
    def score(
        self, metric: Metric, images: Samples, prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """A metric's scores, on the CPU, of pictures or videos that lie anywhere.

        The metric sees them on the model's device and in the model's dtype, `chunk` at a time.

        Args:
            metric: what scores.
            images: the samples.
            prompts: what each of them was drawn for.

        Raises:
            MetricError: the metric does not take such samples, or its scores are NaN or infinite.

        """
        check_samples(metric, images)
        scores = []
        for start in range(0, len(images), self.chunk):
            part = slice(start, start + self.chunk)
            seen = images[part].to(self.model.device, self.model.dtype)
            scores.append(score(metric, seen, prompts[part], LOOK).cpu())
        return torch.cat(scores)

    def sample_shape(self, example: Example) -> tuple[int, ...]:
        """`(3, H, W)` of a picture, `(F, 3, H, W)` of a video; what else there is in its own shape.

        Unless the model knows, an example is drawn in no more than two steps: what the pipeline
        does not take, or cannot do, is then an error before anything is learned.
        """
        if isinstance(self.model, DiffusionModel) and not self.arguments:
            return self.model.sample_shape
        return tuple(self._draw_shortly(example, None).shape[1:])

    def is_stochastic(self, example: Example) -> bool:
        """Whether the pipeline draws random numbers besides the initial noise; draws shortly."""
        if "generator" not in call_parameters(self.model.pipe):
            return False
        generator = torch.Generator().manual_seed(0)
        before = generator.get_state()
        self._draw_shortly(example, generator)
        return not torch.equal(generator.get_state(), before)

    @torch.no_grad()
    def _draw_shortly(self, example: Example, generator: torch.Generator | None) -> Drawn:
        short = replace(self, steps=min(2, self.steps))
        more = {} if generator is None else {"generator": [generator], "seeds": None}
        return short._generate(short._inputs([example]), **more)

    def with_gradient(self, gradient: GradientMethod | str) -> Self:
        """The same with another gradient method."""
        return replace(self, gradient=gradient)

    def noise_of(self, example: Example) -> Float[Tensor, "one *shape"]:
        """The initial noise that an example starts from."""
        if example in self.noises:
            return self.noises[example]
        return self.model.noise(1, example.seed, **self.arguments)

    def draw_from(self, example: Example, noise: Tensor) -> Tensor:
        """An example's picture from a noise that may ask for its gradient."""
        return self._generate(Inputs([example], [example.prompt], noise))

    def _inputs(self, examples: Sequence[Example]) -> Inputs:
        # Sample 0 of each seed: an example's picture does not depend on the batch that it is drawn
        # in.
        noise = torch.cat([self.noise_of(example) for example in examples])
        return Inputs(examples, [example.prompt for example in examples], noise)

    def _generate(self, inputs: Inputs, **more: Any) -> Tensor:
        general = isinstance(self.model, AnyPipeline)
        asked = inputs.encoded is None and not (general and reads(self.model.pipe) == NOTHING)
        encoded = inputs.encoded or {}
        # What was encoded with the prompt must not be said once more in words.
        arguments = {n: v for n, v in self.arguments.items() if not is_encoded(n, encoded)}
        settings = {"seeds": [example.seed for example in inputs.examples]} | more
        drawn = self.model.generate(
            list(inputs.prompts) if asked else None,
            inputs.noise,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler,
            gradient=self.gradient,
            **settings,
            **arguments,
            **encoded,
        )
        # A pipeline in half precision may make such pictures; metrics see float32 at least.
        return drawn.to(torch.promote_types(drawn.dtype, torch.float32))
