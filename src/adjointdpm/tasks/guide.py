"""guide: one prompt, its noise or its embedding or both optimised for a metric, and every picture
on the way.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.errors import InvalidInputError, PromptError, UnknownNameError, UnsupportedError
from adjointdpm.metrics.subject_recognition import Recogniser
from adjointdpm.optimization.loop import Record
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines.inversion import invert
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support.picture_files import read_picture
from adjointdpm.tasks.config import (
    SEED_RANGE,
    Sets,
    TaskConfig,
    check_prompts,
    check_sampling,
    number,
    stock_arguments,
)
from adjointdpm.tasks.learning import Assignment, Story, learn, picture_size
from adjointdpm.variables import Example, Joint, Noise, PromptEmbedding, Variable

LEARNED = ("noise", "embedding", "both")


@dataclass(frozen=True, kw_only=True)
class GuideConfig(TaskConfig):
    """What `guide` optimises; `prompts` repeats the one prompt, once for each picture.

    Args:
        learn: "noise", "embedding" or "both".
        within, budget: the set that the noise stays in, see `Noise`.
        picture: a file to start from, inverted to noise, instead of a seed. It is inverted by the
            rule of the pipeline's own scheduler, and so drawn with that.

    Raises:
        PromptError: no prompt, or several.
        UnknownNameError: another `learn`.
        InvalidInputError: a picture for more than one prompt, or bounds on noise that is not
            learned.
        UnsupportedError: a picture and a sampler.

    """

    learn: str = "noise"
    within: str = "shell"
    budget: float | None = None
    picture: str | None = None

    def __post_init__(self) -> None:
        check_sampling(self.guidance_scale, self.sampler, self.gradient)
        check_prompts(self.prompts, "prompt")
        if len(set(self.prompts)) > 1:
            raise PromptError(f"guide takes one prompt, not {len(set(self.prompts))}")
        if self.learn not in LEARNED:
            raise UnknownNameError(
                f"learn={self.learn!r} is unknown; choose one of {', '.join(LEARNED)}"
            )
        if self.learn == "embedding" and (self.within != "shell" or self.budget is not None):
            raise InvalidInputError(
                f"within={self.within!r} and budget={self.budget} say where the noise may go, and "
                f"learn='embedding' leaves it where it is; drop them, or learn 'noise' or 'both'"
            )
        if self.picture is not None and len(self.prompts) > 1:
            raise InvalidInputError(
                f"a run that starts from a picture makes one, not {len(self.prompts)}"
            )
        if self.picture is not None and self.sampler is not None:
            raise UnsupportedError(
                f"sampler={self.sampler!r} would not draw the picture {self.picture!r} again: it "
                "is inverted for the pipeline's own scheduler; leave the sampler out, or start "
                f"from a seed"
            )

    @property
    def artefacts(self) -> tuple[str, ...]:
        """The noise, also one that a picture was inverted to, and the embedding."""
        noise = self.learn != "embedding" or self.picture is not None
        return ("noise.safetensors",) * noise + ("prompt_embeds.safetensors",) * (
            self.learn != "noise"
        )

    def sets(self) -> Sets:
        """The same examples for everything, but for an embedding, which is also measured on as many
        fresh seeds.
        """
        first = 3 * SEED_RANGE * self.seed
        examples = number(self.prompts, first)
        fresh = number(self.prompts, first + 2 * SEED_RANGE)
        return Sets(
            examples,
            examples,
            fresh if self.learn == "embedding" and self.picture is None else examples,
        )


def guide(
    model: Any,
    config: GuideConfig,
    folder: RunFolder,
    *,
    task: str = "guide",
    command: str = "",
    recognise: Recogniser | None = None,
    resume: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
) -> dict[str, Any]:
    """Optimise, keep the picture of every iteration in `images/`, measure, and fill the run folder,
    all but its report.

    A run that starts from a picture saves its noise as `noise.safetensors`, learned or not.

    Args, returned value and errors are those of `embed`; ReversalError if the start picture cannot
    be inverted.
    """
    metric, sets = config.resolve_metric(), config.sets()
    starts: dict[Example, Tensor] = {}
    if config.picture is not None:
        image = read_picture(Path(config.picture))[None]
        image = torch.nn.functional.interpolate(
            image, picture_size(model), mode="bilinear", antialias=True, align_corners=False
        )
        scale = 1.0 if config.guidance_scale is None else config.guidance_scale
        config = replace(config, guidance_scale=scale)
        starts[sets.training[0]] = invert(
            model, image, config.prompts[0], steps=config.steps, guidance_scale=scale
        )
    gradient = resolve_gradient(config.gradient)
    render = _Watched(
        model, config.steps, config.guidance_scale, config.sampler, gradient, noises=starts
    )
    parts: list[Variable] = []
    if config.learn in ("noise", "both"):
        start = torch.cat(
            [starts[e] if e in starts else model.noise(1, e.seed) for e in sets.training]
        )
        parts.append(Noise(sets.training, start, within=config.within, budget=config.budget))
    if config.learn in ("embedding", "both"):
        parts.append(PromptEmbedding(model, config.prompts[0]))
    variable = parts[0] if len(parts) == 1 else Joint(parts)

    def keep(record: Record) -> None:
        if "validation" in record and render.seen is not None:
            folder.write_images([f"iteration_{record['iteration']:04d}"], render.seen)
        on_record(record)

    assignment = Assignment(
        task,
        config,
        variable,
        metric,
        sets,
        _story(config, metric.name),
        recognise=recognise,
        command=command,
    )
    result = learn(model, assignment, folder, resume=resume, on_record=keep, render=render)
    if "held_out" not in result:
        return result
    if (
        config.picture is not None and config.learn == "embedding"
    ):  # otherwise it is saved as what is learned
        Noise(sets.training, starts[sets.training[0]]).save(folder.path)
    result["held_out"]["same_examples"] = sets.held_out == sets.training
    result["trajectory"] = sorted(
        str(path.relative_to(folder.path))
        for path in (folder.path / "images").glob("iteration_*.png")
    )
    folder.write_result(result)
    return result


@dataclass(frozen=True)
class _Watched(Renderer):
    """Remembers the first picture of the last examples that it drew with what is learned: the loop
    draws them anyway, to validate.
    """

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


def _story(config: GuideConfig, metric: str) -> Story:
    learned = {
        "noise": "the initial noise",
        "embedding": "the prompt's embedding",
        "both": "the initial noise and the prompt's embedding",
    }
    what = learned[config.learn]
    within = (
        ""
        if config.learn == "embedding"
        else f" The noise stays within: {config.within}"
        + ("." if config.budget is None else f", budget {config.budget:g}.")
    )
    start = "" if config.picture is None else " It started from a picture, inverted to noise."
    return Story(
        title=f"`{config.prompts[0]}`, guided",
        lead=f"What changed is {what}, along the gradient of `{metric}` through {config.steps} "
        f"sampler steps. The model is untouched.{start}",
        views={"before": "before", "after": "after"},
        how=[f"Optimised: {what}.{within}"],
        use="Stock diffusers draws it from the saved tensors, without this library:"
        if config.sampler is None
        else f"Stock diffusers does not have the sampler `{config.sampler}`; this library draws it from the saved tensors:",
        code=_code(config, [example.seed for example in config.sets().held_out]),
    )


def _code(config: GuideConfig, seeds: Sequence[int]) -> list[str]:
    """Lines that draw the pictures with a stock pipeline `pipe`, or where it lacks the sampler,
    with this library.
    """
    count, noise, embeds = (
        len(config.prompts),
        config.learn != "embedding" or config.picture is not None,
        config.learn != "noise",
    )
    lines, given = (
        ["from safetensors.torch import load_file"],
        [] if embeds else [f"[{config.prompts[0]!r}] * {count}"],
    )
    if noise:
        lines.append('noise = load_file("noise.safetensors")["noise"]')
    if embeds:
        lines.append('embeds = load_file("prompt_embeds.safetensors")["prompt_embeds"]')
        given.append(f"prompt_embeds=embeds.expand({count}, -1, -1)")
    if config.sampler is None:
        given += ["latents=noise"] * noise
        return [*lines, f"pipe({', '.join(given)}{stock_arguments(config)})"]
    given += ["noise=noise"] * noise + [
        f"steps={config.steps}",
        f"sampler={config.sampler!r}",
        f"seeds={list(seeds)}",
    ]
    given += [] if config.guidance_scale is None else [f"guidance_scale={config.guidance_scale}"]
    draw = f"images = adj.from_pipeline(pipe).generate({', '.join(given)})"
    return [
        "import adjointdpm as adj",
        "import torch",
        *lines,
        "with torch.no_grad():",
        f"    {draw}",
    ]
