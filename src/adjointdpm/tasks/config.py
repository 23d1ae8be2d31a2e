"""What tasks are told: one dataclass a task, the only place of names and defaults.

Every field is a flag of the task's command, a key of a `--config` file and an argument in Python,
all of one name. The first sentence of its entry under `Args` is the flag's help.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, NamedTuple

from adjointdpm import metrics
from adjointdpm.engine import gradients, samplers
from adjointdpm.errors import InvalidInputError, PromptError
from adjointdpm.metrics import Metric
from adjointdpm.optimization.settings import Settings
from adjointdpm.pipelines.arguments.call_arguments import plain_arguments, written_arguments
from adjointdpm.support.checks import check_int, check_number
from adjointdpm.support.limits import MANY
from adjointdpm.support.limits import check_counts as check_counts
from adjointdpm.variables import Example

# Seeds are spent in the order training, validation, held-out, this many apart: no picture is in two
# sets.
SEED_RANGE = 1_000_000

LARGEST_GUIDANCE = 1000.0

#: Marks lists of prompts, which the command line reads from a file.
PROMPT_FILE = "a file of prompts, one a line"
Prompts = Annotated[list[str], PROMPT_FILE]

#: Marks arguments of the pipeline's call, which the command line takes as NAME=VALUE.
NAME_VALUE = "NAME=VALUE"
PipelineArguments = Annotated[list[str] | Mapping[str, Any], NAME_VALUE]

_LARGEST_STRENGTH = 2.0  # that a person may ask for

# Where nobody says how many: the interval of fewer pictures tells little.
_HELD_OUT_PICTURES = 16


class Sets(NamedTuple):
    """Examples by what they are for; no two share a seed."""

    training: list[Example]
    validation: list[Example]
    held_out: list[Example]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn.

    Args:
        steps: sampler steps, all of which the gradient runs through.
        guidance_scale: strength of classifier-free guidance; without it, the pipeline's default.
        sampler: a native sampler such as euler; without it, the pipeline's own scheduler.
        gradient: the gradient method: exact, adjoint, auto, truncated:last=K, interpolated:vjps=M,
            … Without it, each task takes its own.
        pipeline_arg: an argument of the pipeline's own call, NAME=VALUE, such as height=512 or
            negative_prompt=blurry. In Python also a mapping of names and values.

    """

    steps: int = 20
    guidance_scale: float | None = None
    sampler: str | None = None
    gradient: str = ""
    pipeline_arg: PipelineArguments = field(default_factory=list)

    def check_sampling(self) -> None:
        """Check these settings before a model is loaded.

        Raises:
            InvalidInputError: the steps are not a positive int, or the guidance scale is not
                finite, or an argument of the pipeline is not written NAME=VALUE.
            UnknownNameError: there is no such sampler or gradient method.

        """
        check_counts(self, "steps")
        if not self.gradient:
            object.__setattr__(self, "gradient", self.usual_gradient)
        if self.guidance_scale is not None:
            why = "beyond about 30 pictures are noise, and far beyond they overflow"
            for bound in ({"least": -LARGEST_GUIDANCE}, {"most": LARGEST_GUIDANCE}):
                check_number("guidance_scale", self.guidance_scale, **bound, why=why)
        if self.sampler is not None:
            samplers.resolve(self.sampler)
        gradients.resolve(self.gradient)
        written_arguments(self.pipeline_arg)

    @property
    def usual_gradient(self) -> str:
        """The gradient method where none is given."""
        return "exact"


def default_trackers() -> list[str]:
    """TensorBoard, where it is installed: it is an extra."""
    return ["tensorboard"] if find_spec("tensorboard") else []


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Settings, Sampling):
    """Everything that decides what is learned, as far as all learning tasks share it.

    Args:
        metric: what to make small: NAME, NAME:key=value,… or file.py:function.
        weight: the weight of each metric, in their order; without any, all weigh 1. Of several
            metrics each is first divided by its spread over untouched pictures, so that equal
            weights count alike.
        reward_device: where the metrics are computed, such as cuda:1; without it, where the model
            is. Gradients come back to the model's device.
        reward_dtype: in which precision the metrics are computed, float32 or bfloat16; without it,
            in that of the pictures.
        seed: fixes everything random.
        tracker: where the numbers of every iteration are logged: tensorboard, another tracker of
            Accelerate, or none. Without it: tensorboard, if that is installed.

    """

    metric: list[str]
    weight: list[float] = field(default_factory=list)
    reward_device: str | None = None
    reward_dtype: str | None = None
    lr_schedule: str = "linear"
    optimizer: str = "normalized"
    backtrack: int = 2
    tracker: list[str] = field(default_factory=default_trackers)
    # Predictions drift where a network changes; `align` has it back.
    kl: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.check_sampling()
        self.loop_settings()
        metrics.check_place(self.reward_device, self.reward_dtype)

    @property
    def usual_gradient(self) -> str:
        """Through the last quarter of the steps.

        They cost less than all of them, and where the sampler is chaotic the exact gradient may
        lead nowhere. `benchmarks.task_gradients` compares what each method gains in a minute.
        """
        # Two at least: some schedulers' last step changes nothing, and has no gradient.
        return f"truncated:last={min(self.steps, max(2, math.ceil(self.steps / 4)))}"

    def loop_settings(self, **changes: Any) -> Settings:
        """The settings of the optimisation loop, with changes.

        Raises:
            InvalidInputError, UnknownNameError: see `Settings`.

        """
        values = {setting.name: getattr(self, setting.name) for setting in fields(Settings)}
        return Settings(**values | changes)

    def sets(self) -> Sets:
        """Training, validation and held-out examples."""
        raise NotImplementedError

    def resolve_metric(self) -> Metric:
        """The metric, or the weighted sum of several."""
        return metrics.resolve_weighted(self.metric, self.weight or None)


@dataclass(frozen=True, kw_only=True)
class LearningConfig(TaskConfig):
    """The settings of a task that learns from prompts and is measured on others.

    Args:
        prompts: training prompts, one a line.
        held_out: prompts for the final measurement; without them, every fourth training prompt is
            held out.
        seeds_per_prompt: training pictures of each prompt, each with a seed of its own.
        held_out_seeds: held-out pictures of each prompt; without it, as many as make 16 in all.
        validation: number of validation pictures, of training prompts with fresh seeds.
        strength: how much of what was learned is kept, a number from 0 to 2, or auto: as much as
            gains most while the guard stays within its bound, and without a guard all of it.
        strength_pictures: pictures for choosing the strength, of as many training prompts as can
            be, with seeds of their own.

    Raises:
        PromptError: no prompts, blank ones, too few to hold any out, prompts in both lists, or
            fewer examples than a batch.
        InvalidInputError, UnknownNameError: another setting is out of range.

    """

    prompts: Prompts
    held_out: Prompts = field(default_factory=list)
    seeds_per_prompt: int = 1
    held_out_seeds: int | None = None
    validation: int = 4
    strength: str = "auto"
    strength_pictures: int = 12
    # How likely a noise is means nothing where no noise is learned.
    likelihood: float = field(default=0.0, init=False)
    norm: float = field(default=0.0, init=False)
    _LEAST_SEEDS: ClassVar[int] = 1  # held out, of each prompt

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "seeds_per_prompt", "validation", "strength_pictures")
        if self.held_out_seeds is not None:
            check_counts(self, "held_out_seeds")
        # Of some tasks; what is learned checks them too, but after pictures have been drawn.
        check_counts(self, *(name for name in ("vectors", "rank") if hasattr(self, name)))
        if hasattr(self, "max_norm"):
            check_number("max_norm", getattr(self, "max_norm"), above=0)  # noqa: B009
        object.__setattr__(self, "strength", str(self.strength))  # in Python it may be a number
        _ = self.wanted_strength
        check_prompts(self.prompts, "prompts")
        if not self.held_out:
            self._hold_out()
        check_prompts(self.held_out, "held_out")
        if self.held_out_seeds is None:
            seeds = max(self._LEAST_SEEDS, math.ceil(_HELD_OUT_PICTURES / len(self.held_out)))
            object.__setattr__(self, "held_out_seeds", seeds)
        both = sorted(set(self.prompts) & set(self.held_out))
        if both:
            raise PromptError(
                f"prompts both trained on and held out: {both}; a result on these would mean "
                f"nothing"
            )
        examples = len(self.prompts) * self.seeds_per_prompt
        for count in (examples, len(self.held_out) * (self.held_out_seeds or 1)):
            check_int("number of pictures", count, most=SEED_RANGE, why=MANY)
        if self.batch == type(self).batch > examples:  # nobody asked for it
            object.__setattr__(self, "batch", examples)
        if self.batch > examples:
            raise PromptError(
                f"a batch of {self.batch} needs as many training examples; add prompts"
            )

    @property
    def artefacts(self) -> tuple[str, ...]:
        """What the task leaves in its run folder beside what every run does; see `RunFolder`."""
        return ()

    def sets(self) -> Sets:
        """Training, validation and held-out examples."""
        first = 3 * SEED_RANGE * self.seed
        return Sets(
            number(self.prompts * self.seeds_per_prompt, first),
            number(
                [self.prompts[i % len(self.prompts)] for i in range(self.validation)],
                first + SEED_RANGE,
            ),
            number(self.held_out * (self.held_out_seeds or 1), first + 2 * SEED_RANGE),
        )

    @property
    def wanted_strength(self) -> float | None:
        """The strength that was asked for; None lets the guard choose.

        Raises:
            InvalidInputError: it is neither auto nor a number in range.

        """
        if self.strength == "auto":
            return None
        try:
            wanted = float(self.strength)
        except ValueError:
            wanted = -1.0
        if not 0 <= wanted <= _LARGEST_STRENGTH:
            raise InvalidInputError(
                f"strength={self.strength!r} must be auto, or a number from 0 (where "
                f"learning starts) to {_LARGEST_STRENGTH:g}; 1 is what was learned"
            )
        return wanted

    def strength_examples(self) -> list[Example]:
        """What is drawn to choose the strength, with seeds that no step and no look has seen.

        As many prompts as there can be: what is lost differs more from prompt to prompt than from
        seed to seed. A quarter of the pictures are second ones of a prompt, for diversity.
        """
        count = self.strength_pictures
        once = self.prompts[: count - count // 4]
        first = 3 * SEED_RANGE * self.seed + SEED_RANGE + self.validation
        return number([once[i % len(once)] for i in range(count)], first)

    def _hold_out(self) -> None:
        """Move every fourth prompt, from the second on, to the held-out ones."""
        if len(self.prompts) < 2:
            raise PromptError(
                f"prompts={self.prompts!r} is one prompt; add others, or give held_out "
                f"(--held-out FILE), since results are measured on those"
            )
        prompts = self.prompts
        object.__setattr__(self, "held_out", prompts[1::4])
        object.__setattr__(self, "prompts", [p for i, p in enumerate(prompts) if i % 4 != 1])


def settings_of(config: Any) -> dict[str, Any]:
    """The settings that can be given, by name: what `config.yaml` and `result.json` hold."""
    found = {item.name: getattr(config, item.name) for item in fields(config) if item.init}
    if "pipeline_arg" in found:
        found["pipeline_arg"] = plain_arguments(found["pipeline_arg"])
    return found


def check_prompts(prompts: Sequence[str], name: str) -> None:
    """Raise PromptError unless there is at least one prompt and none is blank."""
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise PromptError(
            f"{name}={prompts!r} must be a list of at least one prompt, none of them blank"
        )


def number(prompts: Sequence[str], first: int) -> list[Example]:
    """One example for each prompt, with seeds counted from `first`."""
    return [Example(prompt, first + i) for i, prompt in enumerate(prompts)]
