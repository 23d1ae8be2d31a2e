"""embed: a visual effect, or a thing, that only a metric knows becomes a token."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adjointdpm.errors import PromptError
from adjointdpm.metrics import Metric
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.loop import Record
from adjointdpm.pipelines.arguments.prompting import check_reads_text
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.config import LearningConfig
from adjointdpm.tasks.learning import Assignment, Story, learn
from adjointdpm.tasks.stock_code import drawing_lines
from adjointdpm.variables import TokenEmbedding
from adjointdpm.variables.networks import text_encoders
from adjointdpm.variables.token_embedding import neutral_word


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(LearningConfig):
    """What `embed` learns.

    Args:
        token: the new token, such as "<dusk>".
        initial: an existing word of one token, where the new vectors start; by default a general
            one. It is also the control: the report shows pictures with it in the token's place.
        template: how prompts use the token, with the fields {prompt} and {token}.
        vectors: number of vectors that the token stands for.
        max_norm: bound on the vectors' norm, in units of the vocabulary's largest norm.

    """

    token: str
    initial: str | None = None
    template: str = "{prompt} {token}"
    vectors: int = 1
    max_norm: float = 2.0
    lr: float = 0.5
    batch: int = 4
    patience: int = 3
    preservation: float = 0.3

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The token's vectors."""
        return TokenEmbedding.artefacts


def embed(
    model: Any,
    config: EmbedConfig,
    folder: RunFolder,
    *,
    metric: Metric | None = None,
    task: str = "embed",
    command: str = "",
    recognise: Recogniser | None = None,
    resume: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
) -> dict[str, Any]:
    """Learn the token, measure it on held-out prompts, and fill the run folder, all but its report.

    Args:
        model: what `adjointdpm.load` returns; afterwards it is as it was.
        config: what to learn.
        folder: where results are written.
        metric: what to make small; by default what the config names.
        task: the name in `result.json`.
        command: the command line that repeats the run, for the report.
        recognise: a judge of content, never the optimised metric.
        resume: go on from the folder's checkpoint.
        on_record: called after every iteration.

    Returns:
        What `result.json` holds.

    Raises:
        MetricError, PromptError, CheckpointError, OutputError, Interrupted: see `optimize`,
            `TokenEmbedding` and `metrics.resolve`.

    """
    check_reads_text(model.pipe, "embed")
    metric, sets = metric or config.resolve_metric(), config.sets()
    if (initial := config.initial) is None:
        initial = _neutral_word(model.pipe, config.prompts)
        config = replace(config, initial=initial)
    template, vectors, bound = config.template, config.vectors, config.max_norm
    token = TokenEmbedding(
        model.pipe, config.token, initial, template=template, vectors=vectors, max_norm=bound
    )
    controls = [
        e._replace(prompt=template.format(prompt=e.prompt, token=initial)) for e in sets.held_out
    ]
    assignment = Assignment(
        task,
        config,
        token,
        metric,
        sets,
        _story(config, metric.name, token),
        {"existing_word": controls},
        recognise,
        command=command,
    )
    return learn(model, assignment, folder, resume=resume, on_record=on_record)


def _neutral_word(pipe: Any, prompts: Sequence[str]) -> str:
    """A word that is one token for one of the pipeline's tokenizers at least."""
    failure = PromptError(f"{type(pipe).__name__} has no text encoder that could learn a token")
    for part in text_encoders(pipe):
        try:
            return neutral_word(getattr(pipe, part.tokenizer), prompts)
        except PromptError as error:
            failure = error
    raise failure


def _story(config: EmbedConfig, metric: str, token: TokenEmbedding) -> Story:
    count = config.vectors * len(token.parts)
    vectors = "one embedding vector" if count == 1 else f"{count} embedding vectors"
    if len(token.parts) > 1:
        vectors += f", {config.vectors} in each of {len(token.parts)} text encoders"
    return Story(
        title=f"A word that no caption taught: `{config.token}`",
        lead=f"A new word was learned from one number about the pictures, `{metric}`, by sending "
        f"the gradient of that number backwards through {config.steps} sampler steps into "
        f"{vectors}. No weight of the model changed.",
        views={
            "before": "untouched",
            "existing_word": f"existing word “{config.initial}”",
            "after": f"with {config.token}",
        },
        how=[
            f"Prompts use the token as in `{config.template}`. Its vectors' norm may not exceed "
            f"{config.max_norm:g} × that of the longest word in the vocabulary. They started at "
            f"the existing word “{config.initial}”, which is the control: it stands in the same "
            f"place of the same sentence.",
        ],
        use="Stock diffusers loads the learned vectors, without this library:",
        code=[
            *token.usage(),
            *drawing_lines(token.pipe, config, [token.written(config.held_out[0])]),
        ],
    )
