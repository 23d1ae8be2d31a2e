"""What every task is told: prompts, what to measure, how to sample, and where its seeds come from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from adjointdpm import metrics
from adjointdpm.engine import gradients, samplers
from adjointdpm.errors import InvalidInputError, PromptError
from adjointdpm.metrics import Metric
from adjointdpm.optimization.loop import Settings
from adjointdpm.variables import Example

# Seeds are spent in the order training, validation, held-out, this many apart: no picture is in two
# sets.
SEED_RANGE = 1_000_000


class Sets(NamedTuple):
    """Examples by what they are for; no two share a seed."""

    training: list[Example]
    validation: list[Example]
    held_out: list[Example]


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Everything that decides what is learned, as far as all tasks share it.

    Args:
        metric: metrics as `metrics.resolve` reads them; lower is better.
        weights: one for each metric; none are ones.
        prompts: training prompts.
        held_out: prompts for the final measurement alone.
        seeds_per_prompt: training examples per prompt.
        held_out_seeds: held-out examples per prompt.
        validation: number of validation examples: training prompts with fresh seeds.
        steps, guidance_scale, sampler, gradient: as `generate` takes them; no sampler is the
            pipeline's own scheduler.
        seed: fixes every other seed.
        trackers: names of experiment trackers, see `Trackers`.
        optimisation: the loop's settings.

    Raises:
        PromptError: no training or held-out prompts, blank ones, prompts in both lists, or fewer
            examples than a batch.
        InvalidInputError, UnknownNameError: see `check_sampling`.

    """

    metric: list[str]
    weights: list[float] = field(default_factory=list)
    prompts: list[str]
    held_out: list[str]
    seeds_per_prompt: int = 1
    held_out_seeds: int = 1
    validation: int = 4
    steps: int = 50
    guidance_scale: float | None = None
    sampler: str | None = None
    gradient: str = "exact"
    seed: int = 0
    trackers: list[str] = field(default_factory=list)
    optimisation: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        check_sampling(self.guidance_scale, self.sampler, self.gradient)
        for name in ("prompts", "held_out"):
            check_prompts(getattr(self, name), name)
        both = sorted(set(self.prompts) & set(self.held_out))
        if both:
            raise PromptError(
                f"prompts both trained on and held out: {both}; a result on these would mean "
                f"nothing"
            )
        if self.optimisation.batch > len(self.prompts) * self.seeds_per_prompt:
            raise PromptError(
                f"a batch of {self.optimisation.batch} needs as many training examples; add prompts"
            )

    @property
    def artefacts(self) -> tuple[str, ...]:
        """What the task leaves in its run folder beside what every run does; see `RunFolder`."""
        return ()

    def resolve_metric(self) -> Metric:
        """The metric, or the weighted sum of several."""
        return metrics.resolve_weighted(self.metric, self.weights or None)

    def sets(self) -> Sets:
        """Training, validation and held-out examples."""
        first = 3 * SEED_RANGE * self.seed
        return Sets(
            number(self.prompts * self.seeds_per_prompt, first),
            number(
                [self.prompts[i % len(self.prompts)] for i in range(self.validation)],
                first + SEED_RANGE,
            ),
            number(self.held_out * self.held_out_seeds, first + 2 * SEED_RANGE),
        )


def check_sampling(guidance_scale: float | None, sampler: str | None, gradient: str) -> None:
    """Check what decides how pictures are drawn, before a model is loaded.

    Raises:
        InvalidInputError: the guidance scale is not finite.
        UnknownNameError: there is no such sampler or gradient method.

    """
    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise InvalidInputError(f"guidance_scale={guidance_scale} must be finite")
    if sampler is not None:
        samplers.resolve(sampler)
    gradients.resolve(gradient)


def check_prompts(prompts: Sequence[str], name: str) -> None:
    """Raise PromptError unless there is at least one prompt and none is blank."""
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise PromptError(
            f"{name}={prompts!r} must be a list of at least one prompt, none of them blank"
        )


def number(prompts: Sequence[str], first: int) -> list[Example]:
    """One example for each prompt, with seeds counted from `first`."""
    return [Example(prompt, first + i) for i, prompt in enumerate(prompts)]


def stock_arguments(config: TaskConfig) -> str:
    """What a stock pipeline's call needs besides the prompt to draw as the run did, each argument
    after a comma.
    """
    scale = "" if config.guidance_scale is None else f", guidance_scale={config.guidance_scale}"
    return f", num_inference_steps={config.steps}{scale}"
