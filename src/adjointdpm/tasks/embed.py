"""embed: a visual effect, or a thing, that only a metric knows becomes a token."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from adjointdpm.engine.stats import stats
from adjointdpm.errors import AdjointDPMWarning, NoGainWarning
from adjointdpm.metrics import Metric
from adjointdpm.metrics.on_device import placed_elsewhere
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.guard import Guard
from adjointdpm.optimization.loop import Record
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines.arguments.prompting import check_reads_text
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.distributed import Processes
from adjointdpm.support.files import write_text
from adjointdpm.tasks.config import LearningConfig
from adjointdpm.tasks.judge_guard import ContentCheck
from adjointdpm.tasks.learning import Assignment, Story, check_metric, learn, renderer
from adjointdpm.tasks.sentence_trial import SentenceTrial
from adjointdpm.tasks.sentences import FILE as TEMPLATE_FILE
from adjointdpm.tasks.sentences import Choice, chosen_template
from adjointdpm.tasks.stock_code import drawing_lines
from adjointdpm.tasks.template_probe import TEMPLATES, TemplateProbe
from adjointdpm.tasks.word_pictures import WordPictures
from adjointdpm.variables import TokenEmbedding

README = "README.md"


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(LearningConfig):
    """What `embed` learns.

    Args:
        token: the new token, such as "<dusk>".
        initial: an existing word of one token, where the new vectors start. Without it, the best of
            some common ones. It is also the control: the report shows pictures with it in the
            token's place.
        template: how prompts use the token, with the fields {prompt} and {token}. Without it, the
            sentence of several in which existing words act best.
        vectors: number of vectors that the token stands for.
        max_norm: bound on the vectors' norm, in units of the vocabulary's largest norm.

    """

    token: str
    initial: str | None = None
    template: str | None = None
    vectors: int = 1
    max_norm: float = 2.0
    lr: float = 0.5
    batch: int = 4
    validation: int = 8
    validate_every: int = 4
    strength_pictures: int = 8
    patience: int = 3
    backtrack: int = 1
    preservation: float = 0.3

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The token's vectors, how they are used, and the sentence that was chosen."""
        return (*TokenEmbedding.artefacts, README, TEMPLATE_FILE)


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
    on_choice: Callable[[str], None] = lambda text: None,
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
        on_choice: called with what to tell of the sentence, before anything is learned.

    Returns:
        What `result.json` holds.

    Raises:
        MetricError, PromptError, CheckpointError, OutputError, Interrupted: see `optimize`,
            `TokenEmbedding` and `metrics.resolve`.

    """
    check_reads_text(model.pipe, "embed")
    metric, sets = metric or config.resolve_metric(), config.sets()
    render = renderer(model, config)
    _check_token(render, metric, config)
    check_metric(render, metric, sets.training)
    content = _content(recognise, config)
    choice = _chosen(render, config, metric, content, folder, resume)
    if Processes().is_main:
        on_choice(_told(choice))
    _warn_if_lost(choice)
    with stats(memory=False) as cost:
        guard = None if content is None else _guard(render, content, config)
    template, initial = choice.template, choice.initial
    config = replace(config, template=template, initial=initial)
    token = TokenEmbedding(
        model.pipe,
        config.token,
        initial,
        template=template,
        vectors=config.vectors,
        max_norm=config.max_norm,
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
        _story(config, metric.name, token, choice),
        {"existing_word": controls},
        recognise,
        command=command,
        advice=_advice(choice),
        acts=choice.acts,
        found={"template": choice.as_facts()},
        calls={"probing sentences": choice.network_calls},
        prepared=cost.network_calls,
        guard=guard,
        strength_examples=config.strength_examples(),
        strength=config.wanted_strength,
    )
    result = learn(model, assignment, folder, resume=resume, on_record=on_record, render=render)
    if folder.writable:
        write_text(folder.path / README, _readme(config, token, assignment.story, result))
    return result


def _check_token(render: Renderer, metric: Metric, config: EmbedConfig) -> None:
    """Raise PromptError, before anything is drawn, if there can be no such token.

    In a sentence of the user's it must be read with every prompt; others are tried later.
    """
    sets, pipe = config.sets(), render.model.pipe
    word = WordPictures(render, metric, 0.0, config.initial, sets.training).words(1)[0]
    sentence = TEMPLATES[0] if config.template is None else config.template
    token = TokenEmbedding(pipe, config.token, word, template=sentence, vectors=config.vectors)
    if config.template is not None:
        with token:
            token.check([*sets.training, *sets.validation, *sets.held_out])


def _content(recognise: Recogniser | None, config: EmbedConfig) -> ContentCheck | None:
    """What tells whether the content is kept; None if nothing can, or if it does not matter."""
    if recognise is not None:
        return ContentCheck(recognise)
    several = len({example.prompt for example in config.sets().validation}) > 1
    return ContentCheck() if config.preservation and several else None


def _guard(render: Renderer, content: ContentCheck, config: EmbedConfig) -> Guard | None:
    """What guards the run and the choice of a strength."""
    validation = config.sets().validation
    examples = [*validation, *config.strength_examples()]
    prompts = [example.prompt for example in examples]
    return content.guard(render.look(examples), prompts, len(validation))


def _warn_if_lost(choice: Choice) -> None:
    """Warn where the subjects are lost before anything is learned."""
    if choice.lost is None or choice.limit is None or choice.lost <= choice.limit:
        return
    warnings.warn(
        f"with {choice.initial!r} in {choice.template!r}, where the token starts, the share of "
        f"pictures that no longer show their subject, or half where it is unclear, is "
        f"{choice.lost:.0%} (more than {choice.limit:.0%} is much), and what is learned may lose "
        f"as many; name another --initial word or --template, or lower --guidance-scale",
        AdjointDPMWarning,
        stacklevel=3,
    )


def _chosen(
    render: Renderer,
    config: EmbedConfig,
    metric: Metric,
    content: ContentCheck | None,
    folder: RunFolder,
    resume: bool,
) -> Choice:
    """The sentence that the user named, with a warning if words do nothing in it, or the best."""
    sets = config.sets()
    metric = placed_elsewhere(metric, config.reward_device, config.reward_dtype)
    # A guard says itself whether the content is kept. Its weight would choose words that change
    # nothing, and the run lowers it where it costs all that is gained.
    preservation = config.preservation if content is None else 0.0
    others = [example.prompt for example in [*sets.validation, *sets.held_out]]
    pictures = WordPictures(
        render, metric, preservation, config.initial, sets.training, content, others
    )
    trial = SentenceTrial(
        render,
        metric,
        preservation,
        config.token,
        config.vectors,
        config.max_norm,
        config.lr,
        sets.training,
        sets.validation,
        content,
    )
    probe = TemplateProbe(
        pictures,
        config.token,
        [*sets.validation, *sets.held_out],
        trial,
        sets.validation,
    )
    choice = chosen_template(lambda: probe.choose(config.template), folder, resume)
    if Processes().is_main and not choice.acts:
        warnings.warn(
            f"in {choice.template!r} other words in the token's place change pictures by only "
            f"{choice.used.change:.0%} of what another prompt does, so the token may learn nothing"
            f"; {_advice(choice)}",
            NoGainWarning,
            stacklevel=2,
        )
    return choice


def _advice(choice: Choice) -> str:
    """What to do if pictures do not depend on the token."""
    best = max(choice.sentences, key=lambda sentence: sentence.change)
    if best.template != choice.template:
        return f"in {best.template!r} they do by {best.change:.0%}: use that as --template"
    return (
        "raise --guidance-scale, with which pictures follow the prompt more closely, or name a "
        "--template of your own in which such a word matters"
    )


def _told(choice: Choice) -> str:
    """One line on the sentence that is used."""
    change = (
        f"other words in the token's place change pictures by {choice.used.change:.0%} of what "
        f"another prompt does"
    )
    if choice.own:
        return f"sentence: {choice.template!r}, starting at {choice.initial!r}; {change}"
    worst = min(sentence.change for sentence in choice.sentences if not sentence.refused)
    return (
        f"sentence: {choice.template!r}, the best of {len(choice.sentences)}, starting at "
        f"{choice.initial!r}; {change}, in the worst of them by {worst:.0%} "
        f"({choice.seconds:.0f} s)"
    )


def _readme(
    config: EmbedConfig, token: TokenEmbedding, story: Story, result: Mapping[str, Any]
) -> str:
    """How the file beside it is used, by somebody who has neither the report nor this library."""
    held_out, metric = result["held_out"], result["metric"]["name"]
    code = "\n".join(story.code)
    return f"""# `{config.token}`

A token for {type(token.pipe).__name__}, learned from one number about pictures: `{metric}` (lower
is better), which goes from {held_out["before"]:.3f} to {held_out["after"]:.3f} on
{held_out["examples"]} pictures that it was not learned from.

It was learned in this sentence, and acts best there:

    {config.template}

In the folder of this file, with a stock diffusers pipeline `pipe` of the same model:

```python
{code}
```
"""


def _story(config: EmbedConfig, metric: str, token: TokenEmbedding, choice: Choice) -> Story:
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
            f"Prompts use the token as in `{config.template}`. {_how_chosen(choice)}",
            f"Its vectors' norm may not exceed "
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


def _how_chosen(choice: Choice) -> str:
    """Where the sentence comes from, for the report."""
    acts = (
        f"Existing words in the token's place change pictures by {choice.used.change:.0%} of what "
        f"another prompt does."
    )
    if choice.own:
        return acts
    tried = "; ".join(f"`{s.template}` {s.change:.0%}" for s in choice.sentences[1:])
    return (
        f"It was chosen because the objective changes most from word to word there. {acts} The "
        f"others that were tried: {tried}."
    )
