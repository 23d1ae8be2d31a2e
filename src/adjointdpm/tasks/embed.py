"""embed: a visual effect that only a metric knows becomes a token."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adjointdpm import metrics
from adjointdpm.errors import PromptError
from adjointdpm.gradients import resolve as resolve_gradient
from adjointdpm.measure import gradient_error, is_exact, peak_memory_bytes, versions
from adjointdpm.optimize import Record, Settings, optimize
from adjointdpm.rendering import Example, Renderer
from adjointdpm.run_folder import RunFolder
from adjointdpm.tasks.evaluation import Recogniser, Views, evaluate
from adjointdpm.variables import TokenEmbedding

# Seeds are spent in the order training, validation, held-out, this many apart: no picture is in two sets.
_SEED_RANGE = 1_000_000


@dataclass(frozen=True)
class EmbedConfig:
    """Everything that decides what is learned.

    Args:
        token: the new token.
        initial: the existing word where its vector starts.
        metric: a metric as `metrics.resolve` reads it; lower is better.
        prompts: training prompts.
        held_out: prompts for the final measurement alone.
        template: how prompts use the token.
        vectors: vectors of the token.
        max_norm: bound on their norm, in units of the vocabulary's largest norm.
        seeds_per_prompt: training examples per prompt.
        validation: number of validation examples: training prompts with fresh seeds.
        steps, guidance_scale, gradient: sampling, with the pipeline's own scheduler.
        seed: fixes every other seed.
        optimisation: the loop's settings.

    Raises:
        PromptError: no training or held-out prompts, blank ones, or prompts in both lists.

    """

    token: str
    initial: str
    metric: str
    prompts: list[str]
    held_out: list[str]
    template: str = "{prompt} {token}"
    vectors: int = 1
    max_norm: float = 1.0
    seeds_per_prompt: int = 1
    validation: int = 4
    steps: int = 50
    guidance_scale: float = 5.0
    gradient: str = "exact"
    seed: int = 0
    optimisation: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        for name in ("prompts", "held_out"):
            prompts = getattr(self, name)
            if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
                raise PromptError(f"{name}={prompts!r} must be a list of at least one prompt, none of them blank")
        both = sorted(set(self.prompts) & set(self.held_out))
        if both:
            raise PromptError(f"prompts both trained on and held out: {both}; a result on these would mean nothing")
        if self.optimisation.batch > len(self.prompts) * self.seeds_per_prompt:
            raise PromptError(f"a batch of {self.optimisation.batch} needs as many training examples; add prompts")

    def examples(self) -> tuple[list[Example], list[Example], list[Example]]:
        """Training, validation and held-out examples; no two share a seed."""
        first = 3 * _SEED_RANGE * self.seed
        training = _number(self.prompts * self.seeds_per_prompt, first)
        validation = _number([self.prompts[i % len(self.prompts)] for i in range(self.validation)], first + _SEED_RANGE)
        return training, validation, _number(self.held_out, first + 2 * _SEED_RANGE)


def embed(
    model: Any,
    config: EmbedConfig,
    folder: RunFolder,
    *,
    task: str = "embed",
    command: str = "",
    recognise: Recogniser | None = None,
    resume: bool = False,
    on_record: Callable[[Record], None] = lambda record: None,
) -> dict[str, Any]:
    """Learn the token, measure it on held-out prompts and seeds, and fill the run folder, all but its report.

    Args:
        model: what `adjointdpm.load` returns; as it was, afterwards.
        config: what to learn.
        folder: where to; see `RunFolder`.
        task: the name in `result.json`.
        command: the command line to repeat the run, for the report.
        recognise: a judge of content, never the optimised metric.
        resume: go on from the folder's checkpoint.
        on_record: called after every iteration.

    Returns:
        What `result.json` holds.

    Raises:
        MetricError, PromptError, CheckpointError, OutputError, Interrupted: see `optimize`, `TokenEmbedding` and `metrics.resolve`.

    """
    started = time.perf_counter()
    metric, gradient = metrics.resolve(config.metric), resolve_gradient(config.gradient)
    training, validation, held_out = config.examples()
    render = Renderer(model, config.steps, config.guidance_scale, gradient=gradient)
    token = TokenEmbedding(
        model.pipe, config.token, config.initial, template=config.template, vectors=config.vectors, max_norm=config.max_norm
    )
    metrics.probe(metric, *_picture_size(model), device=model.device)

    def keep(history: list[Record]) -> None:
        folder.write_history(history)
        on_record(history[-1])

    with render.counted() as counter, token:
        outcome = optimize(
            render,
            token,
            metric,
            training,
            validation,
            config.optimisation,
            checkpoints=folder.checkpoints,
            history=folder.read_history() if resume else (),
            resume=resume,
            on_history=keep,
        )
        optimised = time.perf_counter() - started
        calls = counter.calls
        artefact = token.save(folder.path)
        word = [Example(config.template.format(prompt=e.prompt, token=config.initial), e.seed) for e in held_out]
        views = Views(before=render.look(held_out), word=render.look(word), after=render.look(held_out, token))
        seen = {"before": render.look(validation), "after": render.look(validation, token)}
        evaluated = counter.calls - calls
        errors = [] if is_exact(gradient) else gradient_error(render, token, metric, training[:3])
        checked = counter.calls - calls - evaluated
    before, after = (metric(images).mean().item() for images in seen.values())
    result = {
        "task": task,
        "metric": {"name": metric.name, "before": before, "after": after},
        "held_out": evaluate(metric, held_out, views, recognise),
        "pictures": _save_pictures(folder, held_out, views),
        "artefact": artefact.name,
        "token": {
            "name": config.token,
            "initial": config.initial,
            "norm": token.vectors.detach().norm(dim=1).mean().item() / token.longest_word,
            "max_norm": config.max_norm,
        },
        "optimisation": {
            "best_iteration": outcome.best_iteration,
            "iterations": outcome.history[-1]["iteration"],
            "stopped": outcome.stopped,
        },
        "gradient": {"method": config.gradient, "class": repr(gradient), "exact": is_exact(gradient), "error": errors},
        "seconds": time.perf_counter() - started,
        "seconds_optimising": optimised,
        "resumed": resume,
        "peak_memory_bytes": peak_memory_bytes(),
        "network_calls": counter.calls,
        "network_calls_by_purpose": {"optimising": calls, "evaluating": evaluated, "checking the gradient": checked},
        "seed": config.seed,
        "command": command,
        "versions": versions(),
        "config": asdict(config),
    }
    folder.write_result(result)
    return result


def _number(prompts: Sequence[str], first: int) -> list[Example]:
    return [Example(prompt, first + i) for i, prompt in enumerate(prompts)]


def _picture_size(model: Any) -> tuple[int, int]:
    _, height, width = model.latent_shape
    factor = model.pipe.vae_scale_factor
    return height * factor, width * factor


def _save_pictures(folder: RunFolder, examples: Sequence[Example], views: Views) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"prompt": e.prompt, "seed": e.seed} for e in examples]
    for view, images in vars(views).items():
        paths: list[Path] = folder.write_images([f"held_out_{i:02d}_{view}" for i in range(len(examples))], images)
        for row, path in zip(rows, paths, strict=True):
            row[view] = str(path.relative_to(folder.path))
    return rows
