"""guide: optimise the noise or the embedding of one prompt for a metric."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import InvalidInputError, PromptError, UnknownNameError, UnsupportedError
from adjointdpm.metrics import Metric
from adjointdpm.metrics.lost_subject import stills
from adjointdpm.metrics.picture_resemblance import PictureResemblance
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.loop import Record
from adjointdpm.optimization.optimizers import usual_lr
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.optimization.settings import Settings
from adjointdpm.pipelines.any_pipeline import AnyPipeline, check_family, encoding_arguments
from adjointdpm.pipelines.arguments.prompting import check_reads_text
from adjointdpm.pipelines.inversion import invert
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.picture_files import read_picture
from adjointdpm.tasks.config import (
    SEED_RANGE,
    Prompts,
    Sets,
    TaskConfig,
    check_counts,
    check_prompts,
    number,
)
from adjointdpm.tasks.diagnosis import ADVICE
from adjointdpm.tasks.guide_code import LATENTS, GuideLines
from adjointdpm.tasks.judge_guard import judge_guard
from adjointdpm.tasks.learning import Assignment, Story, check_metric, learn, renderer
from adjointdpm.variables import Example, Joint, Noise, PromptEmbedding, Variable

LEARNED = ("noise", "embedding", "both")
_STRENGTH_PICTURES = 8  # for choosing how much of an embedding is kept
_OTHERS, _ANOTHER = 4, "another drawing of the prompt"
#: What to do if pictures stay the same, by what is learned.
_ADVICE = {
    "noise": "the noise may have far to go: raise --lr, or let the prompt help (--learn both)",
    "embedding": ADVICE,
    "both": "raise --lr, or name a prompt in whose words such pictures are possible",
}

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
        pictures: number of pictures, each with a seed of its own; without it, one, or four if only
            the embedding is learned, so that it suits other seeds too.
        learn: what is optimised: noise, embedding, or both.
        within: where the noise stays: spectrum, shell, l2, linf or free. See `Noise`.
        budget: how far the noise may go, for l2 and linf.
        picture: the file of a picture to start from, inverted to noise, instead of a seed. It is
            inverted by the rule of the pipeline's own scheduler, and so drawn with that.
        batch: pictures in one graph; by default all of them.
        retry_after: if so many iterations gain next to nothing, go on with larger steps where the
            metric has not moved, and else with the exact gradient; 0: never. Without it, 10, or 0
            where a gradient is asked for.
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
    iterations: int = 30
    lr: float | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    backtrack: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    preservation: float = 0.2
    batch: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    patience: int = 15
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

        From noise to picture the way is rough: its better states lie behind worse ones, so it never
        goes back. An embedding moves pictures of all seeds, smoothly, and soon too far.
        """
        alone = self.learn == "embedding"
        several = alone and self.picture is None
        usual = {
            "lr": usual_lr(self.optimizer, 0.3 if self.learn == "noise" else 0.05),
            "backtrack": 2 if alone else 0,
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


def guide(
    model: Any,
    config: GuideConfig,
    folder: RunFolder,
    *,
    metric: Metric | None = None,
    task: str = "guide",
    command: str = "",
    recognise: Recogniser | None = None,
    resume: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
) -> dict[str, Any]:
    """Optimise, keep the picture of every iteration in `images/`, and fill the run folder.

    A run that starts from a picture saves its noise as `noise.safetensors`, learned or not.
    Arguments, returned value and errors are those of `embed`.

    Raises:
        ReversalError: the start picture cannot be inverted.

    """
    if config.learn != "noise":
        check_reads_text(model.pipe, "guide with learn='embedding'")
    if config.picture is not None:
        check_family(model, "guide from a picture")
    metric, sets = metric or config.resolve_metric(), config.sets()
    starts: dict[Example, Tensor] = {}
    if (picture := config.picture) is not None:
        scale = 1.0 if config.guidance_scale is None else config.guidance_scale
        config = replace(config, guidance_scale=scale)
        starts[sets.training[0]] = _inverted(model, config, scale, Path(picture))
    drawing = renderer(model, config)
    render = _Watched(**{item.name: getattr(drawing, item.name) for item in fields(drawing)})
    render = replace(render, noises=starts)

    asked = recognise
    if asked is None and config.preservation:
        asked = _resemblance(render, config, metric)
    parts = _parts(render, config, sets.training)
    clearly = sets.held_out == sets.training  # the very pictures that it asks for are measured

    def keep(record: Record) -> None:
        if "validation" in record and render.seen is not None:
            folder.write_images([f"iteration_{record['iteration']:04d}"], render.seen)
        on_record(record)

    assignment = Assignment(
        task,
        config,
        parts[0] if len(parts) == 1 else Joint(parts),
        metric,
        sets,
        _story(config, metric.name),
        recognise=recognise,
        command=command,
        guard=None
        if asked is None
        else judge_guard(asked, config.count, looks=None, clearly=clearly),
        retry_after=config.retry_after or 0,
        advice=_ADVICE[config.learn],
        strength_examples=[] if asked is None else config.strength_examples(),
    )
    result = learn(model, assignment, folder, resume=resume, on_record=keep, render=render)
    if "held_out" not in result:
        return result  # another process measures
    if starts and config.learn == "embedding":  # otherwise it is saved as what is learned
        noise = Noise(sets.training, starts[sets.training[0]])
        noise.save(folder.path)
        noise.check_saved(folder.path)
    embedding = next((part for part in parts if isinstance(part, PromptEmbedding)), None)
    lines = GuideLines(render, config, folder, sets.held_out, embedding)
    result["story"] |= lines.story()
    result["held_out"]["same_examples"] = sets.held_out == sets.training
    trajectory = sorted((folder.path / "images").glob("iteration_*.png"))
    result["trajectory"] = [str(path.relative_to(folder.path)) for path in trajectory]
    folder.write_result(result)
    return result


def _resemblance(render: Renderer, config: GuideConfig, metric: Metric) -> PictureResemblance:
    """Tells pictures that still resemble the untouched ones from other drawings of the prompt."""
    sets, others = config.sets(), config.others()
    check_metric(render, metric, sets.training, config.loop_settings().batch)
    own = list(dict.fromkeys([*sets.training, *sets.held_out, *config.strength_examples()]))
    prompts = [config.prompt] * len(own) + [_ANOTHER] * len(others)
    found = PictureResemblance.to(stills(render.look([*own, *others])), prompts)
    assert found is not None
    return found


def _inverted(model: Any, config: GuideConfig, scale: float, path: Path) -> Tensor:
    """The noise that the pipeline draws the user's picture from."""
    picture = torch.nn.functional.interpolate(
        read_picture(path)[None],
        model.sample_shape[1:],
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    return invert(model, picture, config.prompt, steps=config.steps, guidance_scale=scale)


def _parts(render: Renderer, config: GuideConfig, examples: Sequence[Example]) -> list[Variable]:
    """What is learned, at its start."""
    parts: list[Variable] = []
    if config.learn in ("noise", "both"):
        start = torch.cat([render.noise_of(example) for example in examples])
        parts.append(Noise(examples, start, within=config.within, budget=config.budget))
    if config.learn in ("embedding", "both"):
        given = encoding_arguments(render.model.pipe, render.arguments)
        model = _WithArguments(render.model.pipe, given) if given else render.model
        parts.append(PromptEmbedding(model, config.prompt))
    return parts


class _WithArguments(AnyPipeline):
    """Encodes prompts with further arguments of the pipeline's `encode_prompt`."""

    def __init__(self, pipe: Any, arguments: Mapping[str, Any]) -> None:
        super().__init__(pipe)
        self._arguments = arguments

    def encode(self, prompts: str | Sequence[str], **arguments: Any) -> dict[str, Any]:
        return super().encode(prompts, **self._arguments, **arguments)


@dataclass(frozen=True)
class _Watched(Renderer):
    """Remembers the first picture that it drew last with what is learned, to validate."""

    _seen: list[Tensor] = field(default_factory=list)

    @property
    def seen(self) -> Tensor | None:
        return self._seen[-1] if self._seen else None

    def draw(
        self, examples: Sequence[Example], variable: Variable | None = None
    ) -> Iterator[tuple[Sequence[Example], Tensor]]:
        for part, images in super().draw(examples, variable):
            if variable is not None and part[0] is examples[0]:
                self._seen[:] = [images[:1].float().cpu()]
            yield part, images


def _stays(config: GuideConfig) -> str:
    """Where the noise stays, in a sentence."""
    if config.budget is not None:
        return f"The noise stays near its start: {config.within}, budget {config.budget:g}."
    return {
        "spectrum": "The noise keeps its detail at every scale (`spectrum`).",
        "shell": "The noise keeps its norm (`shell`).",
        "free": "The noise may go anywhere (`free`).",
    }[config.within]


def _story(config: GuideConfig, metric: str) -> Story:
    learned = {
        "noise": "the initial noise",
        "embedding": "the prompt's embedding",
        "both": "the initial noise and the prompt's embedding",
    }
    what = learned[config.learn]
    within = "" if config.learn == "embedding" else f" {_stays(config)}"
    start = "" if config.picture is None else " It started from a picture, inverted to noise."
    title = f"`{config.prompt}`, guided"
    return Story(
        title=title,
        lead=f"What changed is {what}, along the gradient of `{metric}` through {config.steps} "
        f"sampler steps. The model is untouched.{start}",
        views={"before": "before", "after": "after"},
        how=[f"Optimised: {what}.{within}"],
    )
