"""stylize: the style of one reference picture becomes a LoRA, or new weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adjointdpm import metrics
from adjointdpm.errors import InvalidInputError
from adjointdpm.metrics import GramStyle, Metric, WeightedSum
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.loop import Record
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.config import TaskConfig, stock_arguments
from adjointdpm.tasks.learning import Assignment, Story, learn
from adjointdpm.variables import LoRA, Weights
from adjointdpm.variables.lora import ATTENTION

_DEFAULT = {"rank": 8, "alpha": None, "target_modules": list(ATTENTION)}


@dataclass(frozen=True, kw_only=True)
class StylizeConfig(TaskConfig):
    """What `stylize` learns.

    Args:
        style: the reference picture's file; its Gram distance is the metric, and `metric` may add
            others.
        metric: further metrics; `weights` then starts with the Gram distance's weight.
        full: learn all weights of the denoiser instead of a LoRA.
        rank, alpha, target_modules: of the LoRA; no alpha is the rank.

    Raises:
        InvalidInputError: settings of a LoRA where all weights are learned.

    """

    style: str
    metric: list[str] = field(default_factory=list)
    full: bool = False
    rank: int = 8
    alpha: float | None = None
    target_modules: list[str] = field(default_factory=lambda: list(ATTENTION))

    def __post_init__(self) -> None:
        super().__post_init__()
        unused = [
            name
            for name in ("rank", "alpha", "target_modules")
            if self.full and getattr(self, name) != _DEFAULT[name]
        ]
        if unused:
            raise InvalidInputError(
                f"{', '.join(unused)}: of a LoRA, and with full all weights are learned; drop one "
                f"or the other"
            )

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The LoRA, or the denoiser's folder."""
        return ("unet",) if self.full else ("pytorch_lora_weights.safetensors",)

    def resolve_metric(self) -> Metric:
        """The Gram distance, and what else was asked for."""
        found = [GramStyle(self.style), *map(metrics.resolve, self.metric)]
        if len(found) == 1 and not self.weights:
            return found[0]
        return WeightedSum(found, self.weights or [1.0] * len(found))


def stylize(
    model: Any,
    config: StylizeConfig,
    folder: RunFolder,
    *,
    task: str = "stylize",
    command: str = "",
    recognise: Recogniser | None = None,
    resume: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
) -> dict[str, Any]:
    """Fine-tune towards the reference picture's style, measure on held-out prompts and seeds, and
    fill the run folder, all but its report.

    Args, returned value and errors are those of `embed`; InvalidInputError if the style picture
    cannot be used.
    """
    variable = (
        Weights(model.pipe)
        if config.full
        else LoRA(model.pipe, config.rank, config.alpha, config.target_modules, config.seed)
    )
    assignment = Assignment(
        task,
        config,
        variable,
        config.resolve_metric(),
        config.sets(),
        _story(config),
        recognise=recognise,
        command=command,
    )
    return learn(model, assignment, folder, resume=resume, on_record=on_record)


def _story(config: StylizeConfig) -> Story:
    name = Path(config.style).name
    learned = "all weights of the denoiser" if config.full else f"a LoRA of rank {config.rank}"
    code = ['pipe.load_lora_weights("pytorch_lora_weights.safetensors")']
    if config.full:
        code = [
            'unet = UNet2DConditionModel.from_pretrained("unet")',
            "pipe = StableDiffusionPipeline.from_pretrained(model, unet=unet)",
        ]
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
        code=[*code, f'pipe("{config.held_out[0]}"{stock_arguments(config)})'],
    )
