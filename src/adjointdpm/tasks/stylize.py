"""stylize: the style of one reference picture becomes a LoRA, or new weights.

It is `align` with the Gram distance to the picture as its metric.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from adjointdpm import metrics
from adjointdpm.metrics import GramStyle, Metric, WeightedSum
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.loop import Record
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.align import AlignConfig, align, learned_in_words, use_in_words
from adjointdpm.tasks.learning import Story
from adjointdpm.tasks.stock_code import drawing_lines
from adjointdpm.variables import Variable
from adjointdpm.variables.lora_layers import texture_layers


@dataclass(frozen=True, kw_only=True)
class StylizeConfig(AlignConfig):
    """What `stylize` learns: see `AlignConfig`, and which style.

    Args:
        style: the file of the reference picture, whose Gram distance is made small.
        metric: a further metric, which adds to the Gram distance: NAME:key=value,… or
            file.py:function.
        weight: the weights of the Gram distance and of each metric, in this order; without any,
            all weigh 1.
        target_module: see `AlignConfig`; without any, the projections of all attentions and the
            layers that draw textures: convolutions, and those around an attention.
        lr: see `AlignConfig`; without it, 0.015 for a LoRA.

    """

    style: str
    metric: list[str] = field(default_factory=list)
    iterations: int = 30
    preservation: float = 0.5
    kl: float = 0.0
    _LORA_LR: ClassVar[float] = 0.015

    def usual_layers(self, network: nn.Module) -> list[str]:
        """The layers that a LoRA changes where none are named."""
        return texture_layers(network)

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

    Arguments, returned value and errors are those of `align`.

    Raises:
        InvalidInputError: the style picture cannot be used.

    """
    return align(
        model,
        config,
        folder,
        metric=metric,
        task=task,
        command=command,
        recognise=recognise,
        resume=resume,
        on_record=on_record,
        story=lambda pipe, variable: _story(config, pipe, variable),
    )


def _story(config: StylizeConfig, pipe: Any, variable: Variable) -> Story:
    learned = learned_in_words(config)
    return Story(
        title=f"In the style of one picture: `{Path(config.style).name}`",
        lead=f"One reference picture, and {learned} that moved until pictures of other prompts "
        "share its Gram statistics: which textures and colours occur together, wherever they are. "
        f"The gradient went backwards through {config.steps} sampler steps.",
        views={"before": "untouched", "after": "stylised"},
        how=[
            f"Learned: {learned}. The metric is the distance between Gram matrices of a feature "
            f"network (Gatys et al. 2016)."
        ],
        use=use_in_words(),
        code=[*variable.usage(), *drawing_lines(pipe, config, config.held_out[:1])],
    )
