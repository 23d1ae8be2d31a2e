"""align: any metrics, over many prompts, become a LoRA or new weights of the denoiser."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from dataclasses import field as with_default
from typing import Any, ClassVar

from torch import nn

from adjointdpm import metrics
from adjointdpm.engine.stats import stats
from adjointdpm.errors import AdjointDPMWarning, InvalidInputError
from adjointdpm.metrics import Metric, WeightedSum
from adjointdpm.metrics.picture_resemblance import PictureResemblance
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.guard import Guard
from adjointdpm.optimization.loop import Record
from adjointdpm.optimization.optimizers import usual_lr
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.checks import check_number
from adjointdpm.tasks.config import LearningConfig, check_counts
from adjointdpm.tasks.judge_guard import UNLIKE, judge_guard, resemblance
from adjointdpm.tasks.learning import Assignment, Story, check_metric, learn, renderer
from adjointdpm.tasks.stock_code import drawing_lines
from adjointdpm.variables import LoRA, Variable, Weights
from adjointdpm.variables.lora_layers import attention_layers
from adjointdpm.variables.networks import denoiser

_NETWORKS = ("unet", "transformer", "prior", "decoder")  # what a denoiser's folder may be called
_OF_LORA = ("rank", "alpha", "target_module")


@dataclass(frozen=True, kw_only=True)
class AlignConfig(LearningConfig):
    """What `align` learns.

    Args:
        full: learn all weights of the denoiser instead of a LoRA.
        rank: rank of the LoRA.
        alpha: alpha of the LoRA; without it, the rank.
        target_module: layers that the LoRA changes, by how their names end: conv1. Without any, the
            projections of all attentions.
        clip_reward: the value at which the metric is good enough, so that nothing is gained beyond
            it; as the report shows it, so for a reward the value that it should reach.
        guard: a metric that must not get worse, given as --metric is, or none. Without it, where
            the bundled judge knows the prompts' subjects, the share of them that it finds, and else
            the share of pictures that resemble the untouched ones. States that it refuses are not
            kept, and it ends a run that only pleases its metric.
        guard_bound: how much worse the guard may get. Without it, 10 points of such a share, or one
            picture, where that is more, and two standard errors of another guard. Where a strength
            is chosen, subjects that became unclear count as half lost.
        held_out_seeds: held-out pictures of each prompt; without it, as many as make 16 in all, and
            two at least, since diversity is that of a prompt's pictures.
        strength_pictures: see `LearningConfig`.
        validation: number of validation pictures, of training prompts with fresh seeds.
        lr: the learning rate; without it, 1 for prodigy and lbfgs, and for others 0.03 for a LoRA
            and 0.004 for all weights, which move every layer at once.
        patience: stop after so many looks without a better objective. Every second one halves the
            steps, so more than two, or there would be no smaller steps.
        kl: weight of how far the network's predictions are from the untouched model's, on the
            sampler's own way.

    Raises:
        InvalidInputError: settings of a LoRA where all weights are learned, a guard that is
            optimised itself, or a bound without a guard.

    """

    full: bool = False
    rank: int = 8
    alpha: float | None = None
    target_module: list[str] = with_default(default_factory=list)
    clip_reward: float | None = None
    guard: str | None = None
    guard_bound: float | None = None
    strength_pictures: int = 24
    validation: int = 8
    iterations: int = 60
    lr: float | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    patience: int = 6
    preservation: float = 0.0
    kl: float = 5.0
    _LORA_LR: ClassVar[float] = 0.03
    _LEAST_SEEDS: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if self.lr is None:
            lr = usual_lr(self.optimizer, 0.004 if self.full else self._LORA_LR)
            object.__setattr__(self, "lr", lr)
        super().__post_init__()
        check_counts(self, "rank")
        self._check_unused()
        if self.clip_reward is not None:
            check_number("clip_reward", self.clip_reward)
        if self.guard_bound is not None:
            check_number("guard_bound", self.guard_bound, least=0)
            if self.guard == "none":
                raise InvalidInputError(
                    f"guard_bound={self.guard_bound:g} bounds a guard, but guard=none; drop one"
                )
        if self.guard in self.metric:
            raise InvalidInputError(
                f"guard={self.guard!r} is optimised itself, so it cannot tell what that costs; "
                f"choose another metric as guard"
            )

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The LoRA, or the denoiser's folder."""
        return _NETWORKS if self.full else LoRA.artefacts

    def make_variable(self, pipe: Any) -> Variable:
        """What is learned."""
        if self.full:
            return Weights(pipe)
        layers = self.target_module or self.usual_layers(denoiser(pipe)[1])
        return LoRA(pipe, self.rank, self.alpha, layers, self.seed)

    def usual_layers(self, network: nn.Module) -> list[str]:
        """The layers that a LoRA changes where none are named."""
        return attention_layers(network)

    def resolve_guard(self, metric: Metric, recognise: Recogniser | None) -> Guard | None:
        """The guard that was asked for, or else the recogniser, if there is one.

        Raises:
            InvalidInputError: it is what is optimised, or there is a bound and no guard.

        """
        if self.guard is not None and self.guard != "none":
            found = metrics.resolve(self.guard)
            if found.name in [part.name for part in _parts(metric)]:
                raise InvalidInputError(f"guard {found.name} is optimised itself; choose another")
            return Guard(found, self.guard_bound)
        if self.guard == "none" or recognise is None:
            if self.guard_bound is not None:
                raise InvalidInputError(
                    f"guard_bound={self.guard_bound:g} bounds a guard, and there is none: the "
                    f"bundled judge does not know this prompt, this model, or must not judge what "
                    f"is optimised for it, and of one prompt alone nothing else can tell whether "
                    f"the subject is kept; name a guard (--guard), or more prompts"
                )
            return None
        pictures = min(self.validation, self.strength_pictures)
        if isinstance(recognise, PictureResemblance):
            return judge_guard(recognise, pictures, bound=self.guard_bound, share=UNLIKE)
        return judge_guard(recognise, pictures, bound=self.guard_bound)

    def _check_unused(self) -> None:
        unused = [
            item.name
            for item in fields(self)
            if item.name in _OF_LORA
            and getattr(self, item.name)
            != (item.default if item.default_factory is MISSING else item.default_factory())
        ]
        if self.full and unused:
            raise InvalidInputError(
                f"{', '.join(unused)}: settings of a LoRA, but full=True learns all weights; drop "
                f"one or the other"
            )


def align(
    model: Any,
    config: AlignConfig,
    folder: RunFolder,
    *,
    metric: Metric | None = None,
    task: str = "align",
    command: str = "",
    recognise: Recogniser | None = None,
    resume: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
    story: Callable[[Any, Variable], Story] | None = None,
) -> dict[str, Any]:
    """Fine-tune for the metrics, choose how much of it is kept, measure it, fill the run folder.

    Arguments, returned value and errors are those of `embed`.

    Args:
        model, config, folder, metric, task, command, resume, on_record: as for `embed`.
        recognise: a judge of content, never the optimised metric; also the guard, unless the config
            names another.
        story: what the report says, of the pipeline and what was learned.

    Warns:
        AdjointDPMWarning: no guard, for a metric that pictures can please without getting better.

    """
    metric = metric or config.resolve_metric()
    render, sets, asked = renderer(model, config), config.sets(), recognise
    with stats(memory=False) as cost:
        if asked is None and config.guard is None:
            check_metric(render, metric, sets.training, config.batch)
            asked = resemblance(render, [*sets.validation, *config.strength_examples()])
    guard = config.resolve_guard(metric, asked)
    if guard is None or isinstance(asked, PictureResemblance):
        _warn_if_hackable(metric)
    variable = config.make_variable(model.pipe)
    told = story or (lambda pipe, variable: _story(config, metric, pipe, variable))
    assignment = Assignment(
        task,
        config,
        variable,
        metric,
        sets,
        told(model.pipe, variable),
        recognise=recognise,
        command=command,
        prepared=cost.network_calls,
        guard=guard,
        enough=None if config.clip_reward is None else config.clip_reward * _sign(metric),
        strength_examples=config.strength_examples(),
        strength=config.wanted_strength,
    )
    return learn(model, assignment, folder, resume=resume, on_record=on_record, render=render)


def learned_in_words(config: AlignConfig) -> str:
    """What is learned."""
    return "all weights of the denoiser" if config.full else f"a LoRA of rank {config.rank}"


def use_in_words() -> str:
    """How the artefact is loaded."""
    return (
        "The learned weights are in diffusers' own format, with their strength in them. Stock "
        "diffusers loads them, without this library:"
    )


def _story(config: AlignConfig, metric: Metric, pipe: Any, variable: Variable) -> Story:
    learned = learned_in_words(config)
    return Story(
        title=f"Aligned to `{metric.name}`",
        lead=f"{learned[0].upper()}{learned[1:]} moved until pictures of {len(config.prompts)} "
        f"prompts had a better score. The gradient of the score went backwards through "
        f"{config.steps} sampler steps.",
        views={"before": "untouched", "after": "aligned"},
        how=[
            f"Learned: {learned}, from {len(config.prompts) * config.seeds_per_prompt} prompts "
            f"and seeds."
        ],
        use=use_in_words(),
        code=[*variable.usage(), *drawing_lines(pipe, config, config.held_out[:1])],
    )


def _parts(metric: Metric) -> Sequence[Metric]:
    return metric.metrics if isinstance(metric, WeightedSum) else [metric]


def _sign(metric: Metric) -> int:
    """−1 for a reward, whose score is negated."""
    return getattr(metric, "sign", 1)


def _warn_if_hackable(metric: Metric) -> None:
    hackable = [part.name for part in _parts(metric) if part.hackable or _sign(part) < 0]
    if hackable:
        warnings.warn(
            f"{', '.join(hackable)} asks a learned network, which pictures can please without "
            f"getting better, and no judge guards against that here: name a second metric that "
            f"must not get worse (--guard METRIC), say where the metric is good enough "
            f"(--clip-reward), or keep less of what is learned (--strength 0.5)",
            AdjointDPMWarning,
            stacklevel=3,
        )
