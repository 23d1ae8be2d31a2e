"""What `guide` optimises: its settings, and those of published methods."""

from dataclasses import dataclass, field, fields
from typing import Any

from adjointdpm.errors import InvalidInputError, PromptError, UnknownNameError, UnsupportedError
from adjointdpm.optimization.optimizers import usual_lr
from adjointdpm.optimization.settings import Settings
from adjointdpm.tasks.config import (
    SEED_RANGE,
    Prompts,
    Sets,
    TaskConfig,
    check_counts,
    check_prompts,
    number,
)
from adjointdpm.tasks.guide_code import LATENTS
from adjointdpm.variables import Example, Noise, PromptEmbedding

LEARNED = ("noise", "embedding", "both")
_STRENGTH_PICTURES = 8  # for choosing how much of an embedding is kept
_OTHERS = 4  # pictures of the prompt that another drawing is known by
#: Settings of published methods, by name. ReNO descends along the exact gradient with Nesterov's
#: momentum, and holds the noise by a term for its norm alone.
PRESETS: dict[str, dict[str, Any]] = {
    "reno": {
        "learn": "noise",
        "within": "free",
        "gradient": "exact",
        "optimizer": "sgd",
        "lr": 5.0,
        "lr_schedule": "constant",
        "clip": 0.1,
        "norm": 0.01,
        "preservation": 0.0,
        "iterations": 50,
        "patience": 50,
        "backtrack": 0,
    }
}


@dataclass(frozen=True, kw_only=True)
class GuideConfig(TaskConfig):
    """What `guide` optimises.

    Args:
        prompt: what to draw.
        prompts: a list (on the command line, a file) of the one prompt, in place of prompt.
        lr: the learning rate; without it, 1 for prodigy and lbfgs, and for others 0.3 for noise,
            0.05 for an embedding or both.
        backtrack: after so many looks without a better objective, go back to the best state and
            halve the learning rate; 0: never. Without it, 0 for noise and 2 for an embedding alone.
        iterations: optimiser steps at most; without it, 90 where noise moves, which has far to go,
            and 30 for an embedding alone.
        patience: stop after so many looks without a better objective; without it, 30 where noise
            moves, and 15 for an embedding alone.
        preservation: weight of what holds the picture, 0 for nothing, for a metric of usual spread.
            Where noise moves and the model can be asked, that is what its score of the picture
            lacks to 0.8 of the untouched one's, at each level of noise: nothing until something of
            the prompt is nearly lost. Else it is the structure distance to the untouched picture.
        pictures: number of pictures, each with a seed of its own; without it, one, or four if only
            the embedding is learned, so that it suits other seeds too.
        learn: what is optimised: noise, embedding, or both.
        within: where the noise stays: spectrum, shell, l2, linf or free. See `Noise`.
        budget: how far the noise may go, for l2 and linf.
        picture: the file of a picture to start from, inverted to noise, instead of a seed. It is
            inverted by the rule of the pipeline's own scheduler, and so drawn with that.
        batch: pictures in one graph; by default all of them.
        retry_after: if so many iterations gain next to nothing, go on with larger steps where the
            metric has not moved, and else with the exact gradient, unless it has that already; 0:
            never. Without it, 10, or 0 where a gradient is asked for.
        preset: settings of a published method: reno (Eyring et al. 2024, arXiv 2406.04312). See
            `PRESETS`.

    Raises:
        PromptError: no prompt, or several.
        UnknownNameError: another `learn`.
        InvalidInputError: a batch that does not divide the pictures, a picture to start from for
            more than one, bounds on noise that is not learned, or a setting that contradicts the
            preset.
        UnsupportedError: a picture, and a sampler or further arguments of the pipeline.

    """

    prompt: str = ""
    prompts: Prompts = field(default_factory=list)
    pictures: int | None = None
    learn: str = "noise"
    within: str = "spectrum"
    budget: float | None = None
    picture: str | None = None
    preset: str = ""
    iterations: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    lr: float | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    backtrack: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    preservation: float = 0.2
    batch: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    patience: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    validate_every: int = 1
    retry_after: int | None = None
    # Every iteration moves all pictures.
    accumulate: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self._settle_prompt()
        self._settle_preset()
        self._settle_defaults()
        check_counts(self, "pictures")
        check_counts(self, "retry_after", least=0)
        if self.batch is not None:
            check_counts(self, "batch")
            if self.count % self.batch:
                raise InvalidInputError(
                    f"batch={self.batch} does not divide pictures={self.pictures}: every iteration "
                    f"moves all of them"
                )
        super().__post_init__()
        if self.learn not in LEARNED:
            raise UnknownNameError(
                f"learn={self.learn!r} is unknown; choose one of {', '.join(LEARNED)}"
            )
        if self.learn == "embedding" and (self.within != "spectrum" or self.budget is not None):
            raise InvalidInputError(
                f"within={self.within!r} and budget={self.budget} say where the noise may go, and "
                f"learn='embedding' leaves it where it is; drop them, or learn 'noise' or 'both'"
            )
        if self.picture is not None and self.count > 1:
            raise InvalidInputError(
                f"a run that starts from a picture makes one, not {self.pictures}"
            )
        if self.picture is not None and self.pipeline_arg:
            raise UnsupportedError(
                f"the picture {self.picture!r} is inverted without further arguments of the "
                "pipeline (pipeline_arg), and would be drawn with them; leave one of the two out"
            )
        if self.picture is not None and self.sampler is not None:
            raise UnsupportedError(
                f"sampler={self.sampler!r} would not draw the picture {self.picture!r} again: it "
                "is inverted for the pipeline's own scheduler; leave the sampler out, or start "
                f"from a seed"
            )

    def _settle_prompt(self) -> None:
        if bool(self.prompt) == bool(self.prompts):
            raise PromptError(
                "guide takes one prompt: --prompt TEXT, or --prompts FILE with one line"
            )
        prompts = self.prompts or [self.prompt]
        check_prompts(prompts, "prompt")
        if len(prompts) > 1:
            raise PromptError(f"guide takes one prompt, not {len(prompts)}")
        object.__setattr__(self, "prompt", prompts[0])
        object.__setattr__(self, "prompts", [])

    def _settle_defaults(self) -> None:
        """What is best for noise is not best for an embedding.

        From noise to picture the way is rough: better states lie behind worse ones, so it never
        goes back for a worse metric, and goes on for long. An embedding alone moves pictures of
        all seeds, smoothly, and soon too far.
        """
        alone, noise = self.learn == "embedding", self.learn == "noise"
        several = alone and self.picture is None
        usual = {
            "lr": usual_lr(self.optimizer, 0.3 if noise else 0.05),
            "backtrack": 2 if alone else 0,
            "iterations": 30 if alone else 90,
            "patience": 15 if alone else 30,
            "pictures": 4 if several else 1,
            "retry_after": 0 if self.gradient else 10,
        }
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _settle_preset(self) -> None:
        """Take the preset's values, unless a setting of the user's contradicts one."""
        if not self.preset:
            return
        if self.preset not in PRESETS:
            raise UnknownNameError(
                f"preset={self.preset!r} is unknown; choose one of {', '.join(PRESETS)}"
            )
        defaults = {item.name: item.default for item in fields(self)}
        for name, value in PRESETS[self.preset].items():
            given = getattr(self, name)
            if given not in (defaults[name], value):
                raise InvalidInputError(
                    f"{name}={given!r} contradicts preset={self.preset!r}, which has "
                    f"{name}={value!r}; leave one of the two out"
                )
            object.__setattr__(self, name, value)

    @property
    def count(self) -> int:
        """The number of pictures."""
        assert self.pictures is not None  # it was settled
        return self.pictures

    def loop_settings(self, **changes: Any) -> Settings:
        """The settings of the loop: an iteration moves all pictures, in graphs of `batch`."""
        batch = self.batch or self.count
        derived = {
            "batch": batch,
            "accumulate": self.count // batch,
        }
        return super().loop_settings(**derived | changes)

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The noise, also one that a picture was inverted to, packed too; and the embedding."""
        noise = self.learn != "embedding" or self.picture is not None
        embeds = self.learn != "noise"
        return (*Noise.artefacts, LATENTS) * noise + PromptEmbedding.artefacts * embeds

    def strength_examples(self) -> list[Example]:
        """What is drawn to choose how much of an embedding is kept: seeds that nothing has seen."""
        if self.learn != "embedding" or self.picture is not None:
            return []
        first = 3 * SEED_RANGE * self.seed + SEED_RANGE
        return number([self.prompt] * _STRENGTH_PICTURES, first)

    def others(self) -> list[Example]:
        """Other seeds, whose pictures show how far apart two drawings of the prompt are."""
        return number([self.prompt] * _OTHERS, 3 * SEED_RANGE * self.seed + SEED_RANGE // 2)

    def sets(self) -> Sets:
        """The same examples for everything; an embedding is also measured on fresh seeds."""
        first, prompts = 3 * SEED_RANGE * self.seed, [self.prompt] * self.count
        examples = number(prompts, first)
        if self.learn == "embedding" and self.picture is None:
            return Sets(examples, examples, number(prompts, first + 2 * SEED_RANGE))
        return Sets(examples, examples, examples)
