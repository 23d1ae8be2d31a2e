"""guide: optimise the noise or the embedding of one prompt for a metric."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.engine.stats import stats
from adjointdpm.engine.torch_internals import change_count
from adjointdpm.metrics import Metric
from adjointdpm.metrics.lost_subject import stills
from adjointdpm.metrics.picture_resemblance import PictureResemblance
from adjointdpm.metrics.subject_recognition import Recogniser, SubjectJudge
from adjointdpm.optimization.loop import Record
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines.any_pipeline import AnyPipeline, check_family, encoding_arguments
from adjointdpm.pipelines.arguments.prompting import check_reads_text
from adjointdpm.pipelines.inversion import invert
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.picture_files import read_picture
from adjointdpm.tasks.diagnosis import ADVICE
from adjointdpm.tasks.guide_code import GuideLines
from adjointdpm.tasks.guide_config import GuideConfig
from adjointdpm.tasks.judge_guard import judge_guard
from adjointdpm.tasks.learning import Assignment, Story, check_metric, learn, renderer
from adjointdpm.tasks.prompt_fit import Misfit, PromptFit
from adjointdpm.variables import Example, Joint, Noise, PromptEmbedding, Variable

_ANOTHER = "another drawing of the prompt"
#: What to do if pictures stay the same, by what is learned.
_ADVICE = {
    "noise": "the noise may have far to go: raise --lr, or let the prompt help (--learn both)",
    "embedding": ADVICE,
    "both": "raise --lr, or name a prompt in whose words such pictures are possible",
}


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
    whole = config.loop_settings().batch == config.count  # in one graph
    render = replace(render, noises=starts, moved=sets.training if whole else ())

    clearly = sets.held_out == sets.training  # the very pictures that it asks for are measured
    with stats(memory=False) as cost:
        asked = _recogniser(render, config, metric, recognise, clearly)
    parts = _parts(render, config, sets.training)

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
        prepared=cost.network_calls,
        guard=None
        if asked is None
        else judge_guard(asked, config.count, looks=None, clearly=clearly),
        misfit=Misfit(asked) if isinstance(asked, PromptFit) else None,
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


def _recogniser(
    render: Renderer,
    config: GuideConfig,
    metric: Metric,
    recognise: Recogniser | None,
    clearly: bool,
) -> Recogniser | None:
    """What guards the content, told of untouched pictures.

    Of the very picture that is wanted, that is the model itself rather than the judge, who then has
    no part in what it is asked about in the end.
    """
    held = config.preservation > 0
    # A recogniser of the caller's own stays in its place.
    fitting = held and clearly and (recognise is None or isinstance(recognise, SubjectJudge))
    # Another noise is meant to lead to another drawing, of a prompt that still says what it shows.
    compared = held and recognise is None and config.learn != "noise"
    if not fitting and not compared:
        return recognise
    sets, prompt = config.sets(), config.prompt
    check_metric(render, metric, sets.training, config.loop_settings().batch)
    own = list(dict.fromkeys([*sets.training, *sets.held_out, *config.strength_examples()]))
    untouched = stills(render.look(own))
    if fitting and (fit := PromptFit.to(render.model, untouched, prompt)) is not None:
        return fit
    if not compared:
        return recognise
    others = stills(render.look(config.others()))
    names = [prompt] * len(untouched) + [_ANOTHER] * len(others)
    return PictureResemblance.to(torch.cat([untouched, others]), names)


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
    """Remembers what it drew last with what is learned: it is validated, and then moved on from.

    A drawing of `moved` is made ready for its gradient. The next step finds it, as long as nothing
    has changed, and need not draw the same pictures once more. A gradient method holds little of
    it, and no more than the step itself does.
    """

    moved: Sequence[Example] = ()
    _seen: list[Tensor] = field(default_factory=list)
    _ready: list[tuple[Any, list[Tensor], Tensor]] = field(default_factory=list)

    @property
    def seen(self) -> Tensor | None:
        return self._seen[-1] if self._seen else None

    def __call__(self, examples: Sequence[Example], variable: Variable) -> Tensor:
        former = self._ready.pop() if self._ready else None
        if list(examples) != list(self.moved):
            return super().__call__(examples, variable)
        tensors = list(variable.tensors().values())
        # The method may be another one after a while. Values may change without a new version.
        key = self.gradient, [(id(tensor), change_count(tensor)) for tensor in tensors]
        if not torch.is_grad_enabled():
            with torch.enable_grad():
                images = super().__call__(examples, variable)
            if images.requires_grad:
                self._ready.append((key, [t.detach().clone() for t in tensors], images))
            return images.detach()
        if former is not None and former[0] == key and all(map(torch.equal, former[1], tensors)):
            return former[2]
        return super().__call__(examples, variable)

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
