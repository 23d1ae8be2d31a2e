"""stylize: the style of one reference picture becomes a LoRA, or new weights."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from adjointdpm import metrics
from adjointdpm.errors import InvalidInputError
from adjointdpm.metrics import GramStyle, Metric, WeightedSum
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.loop import Record
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.config import LearningConfig, check_counts
from adjointdpm.tasks.learning import Assignment, Story, learn
from adjointdpm.tasks.stock_code import drawing_lines
from adjointdpm.variables import LoRA, Variable, Weights
from adjointdpm.variables.lora import ATTENTION

_NETWORKS = ("unet", "transformer", "prior", "decoder")  # what a denoiser's folder may be called
_OF_LORA = ("rank", "alpha", "target_module")


@dataclass(frozen=True, kw_only=True)
class StylizeConfig(LearningConfig):
    """What `stylize` learns.

    Args:
        style: the file of the reference picture, whose Gram distance is made small.
        metric: a further metric, which adds to the Gram distance: NAME:key=value,… or
            file.py:function.
        weight: the weights of the Gram distance and of each metric, in this order; without any,
            all weigh 1.
        full: learn all weights of the denoiser instead of a LoRA.
        rank: rank of the LoRA.
        alpha: alpha of the LoRA; without it, the rank.
        target_module: layers that the LoRA changes, by how their names end: conv1.

    Raises:
        InvalidInputError: settings of a LoRA where all weights are learned.

    """

    style: str
    metric: list[str] = field(default_factory=list)
    full: bool = False
    rank: int = 8
    alpha: float | None = None
    target_module: list[str] = field(default_factory=lambda: list(ATTENTION))
    lr: float = 1e-3
    preservation: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(self, "rank")
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

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The LoRA, or the denoiser's folder."""
        return _NETWORKS if self.full else LoRA.artefacts

    def resolve_metric(self) -> Metric:
        """The Gram distance, and what else was asked for."""
        found = [GramStyle(self.style), *map(metrics.resolve, self.metric)]
        if len(found) == 1 and not self.weight:
            return found[0]
        return WeightedSum(found, self.weight or [1.0] * len(found))


def stylize(
    model: Any,
    config: StylizeConfig,
    folder: RunFolder,
    *,
    metric: Metric | None = None,
    task: str = "stylize",
    command: str = "",
    recognise: Recogniser | None = None,
    resume: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
) -> dict[str, Any]:
    """Fine-tune towards the reference picture's style, measure it, and fill the run folder.

    Arguments, returned value and errors are those of `embed`.

    Raises:
        InvalidInputError: the style picture cannot be used.

    """
    targets = None if config.target_module == list(ATTENTION) else config.target_module
    variable = (
        Weights(model.pipe)
        if config.full
        else LoRA(model.pipe, config.rank, config.alpha, targets, config.seed)
    )
    assignment = Assignment(
        task,
        config,
        variable,
        metric or config.resolve_metric(),
        config.sets(),
        _story(config, model.pipe, variable),
        recognise=recognise,
        command=command,
    )
    return learn(model, assignment, folder, resume=resume, on_record=on_record)


def _story(config: StylizeConfig, pipe: Any, variable: Variable) -> Story:
    name = Path(config.style).name
    learned = "all weights of the denoiser" if config.full else f"a LoRA of rank {config.rank}"
    return Story(
        title=f"In the style of one picture: `{name}`",
        lead=f"One reference picture, and {learned} that moved until pictures of other prompts "
        "share its Gram statistics: which textures and colours occur together, wherever they are. "
        f"The gradient went backwards through {config.steps} sampler steps.",
        views={"before": "untouched", "after": "stylised"},
        how=[
            f"Learned: {learned}. The metric is the distance between Gram matrices of a feature "
            f"network (Gatys et al. 2016)."
        ],
        use="The learned weights are in diffusers' own format. Stock diffusers loads them, without "
        "this library:",
        code=[*variable.usage(), *drawing_lines(pipe, config, config.held_out[:1])],
    )
