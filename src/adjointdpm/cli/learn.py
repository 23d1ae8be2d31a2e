"""`embed`, `stylize` and `guide`: commands that run the optimisation loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from adjointdpm.cli import options
from adjointdpm.cli.config_file import is_from_config
from adjointdpm.cli.prompts import PromptSource, split_prompts
from adjointdpm.cli.terminal import command_line, progress_bar, quiet, show_records, tell
from adjointdpm.errors import InvalidInputError, PromptError

Token = Annotated[str, typer.Option(help='The new token, such as "<dusk>".')]
Initial = Annotated[
    str | None,
    typer.Option(
        help="An existing word of one token, where its vectors start; it is also the control. By "
        "default a general one."
    ),
]
Template = Annotated[
    str, typer.Option(help="How prompts use the token, with the fields {prompt} and {token}.")
]

TargetModules = Annotated[
    list[str],
    typer.Option(help="Layers that the LoRA changes, by how their names end: conv1. Repeatable."),
]


def embed(
    prompts: options.Prompts,
    metric: options.Metrics,
    token: Token,
    initial: Initial = None,
    model: options.Model = "tiny",
    held_out: options.HeldOut = None,
    weight: options.Weights = [],  # noqa: B006 - typer copies it
    template: Template = "{prompt} {token}",
    vectors: Annotated[int, typer.Option(min=1, help="Vectors of the token.")] = 1,
    max_norm: Annotated[
        float, typer.Option(help="Bound on their norm, in units of the vocabulary's largest.")
    ] = 1.0,
    steps: options.Steps = 50,
    guidance_scale: options.GuidanceScale = None,
    sampler: options.Sampler = None,
    iterations: options.Iterations = 20,
    batch: options.Batch = 2,
    accumulate: options.Accumulate = 1,
    lr: options.LearningRate = 0.05,
    preservation: options.Preservation = 0.2,
    ema: options.Ema = 0.0,
    distance: options.Distance = 0.0,
    clip: options.Clip = 1.0,
    lr_schedule: options.Schedule = "constant",
    validate_every: options.ValidateEvery = 5,
    patience: options.Patience = 2,
    checkpoint_every: options.CheckpointEvery = 5,
    gradient: options.Gradient = "exact",
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    tracker: options.Trackers = ["tensorboard"],  # noqa: B006 - typer copies it
    config: options.Config = None,
    out: options.Out = Path("runs/embed"),
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Learn a token for an effect, or a thing, that only a metric knows.

    Loads in stock diffusers.
    """
    training, unseen = split_prompts(prompts, held_out)
    from adjointdpm.optimization.loop import Settings
    from adjointdpm.tasks.embed import EmbedConfig
    from adjointdpm.tasks.embed import embed as run

    settings = EmbedConfig(
        token=token,
        initial=initial,
        template=template,
        vectors=vectors,
        max_norm=max_norm,
        metric=metric,
        weights=weight,
        prompts=training,
        held_out=unseen,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        gradient=gradient,
        seed=seed,
        trackers=[name for name in tracker if name != "none"],
        optimisation=Settings(
            iterations=iterations,
            batch=batch,
            accumulate=accumulate,
            learning_rate=lr,
            schedule=lr_schedule,
            max_gradient_norm=clip,
            preservation=preservation,
            distance=distance,
            ema=ema,
            validate_every=validate_every,
            patience=patience,
            checkpoint_every=checkpoint_every,
            seed=seed,
        ),
    )
    _learn(run, settings, f"learning {token}", _Where(model, device, dtype, out, resume, force))


def stylize(
    prompts: options.Prompts,
    style: Annotated[Path, typer.Option(help="The reference picture.")],
    model: options.Model = "tiny",
    held_out: options.HeldOut = None,
    metric: options.Metrics = [],  # noqa: B006 - typer copies it
    weight: options.Weights = [],  # noqa: B006 - typer copies it
    full: Annotated[
        bool, typer.Option("--full", help="Learn all weights of the denoiser instead of a LoRA.")
    ] = False,
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA.")] = 8,
    alpha: Annotated[float | None, typer.Option(help="Of the LoRA; without it, the rank.")] = None,
    target_module: TargetModules = ["to_q", "to_k", "to_v", "to_out.0"],  # noqa: B006 - typer copies it
    steps: options.Steps = 50,
    guidance_scale: options.GuidanceScale = None,
    sampler: options.Sampler = None,
    iterations: options.Iterations = 20,
    batch: options.Batch = 2,
    accumulate: options.Accumulate = 1,
    lr: options.LearningRate = 1e-3,
    preservation: options.Preservation = 0.5,
    ema: options.Ema = 0.0,
    distance: options.Distance = 0.0,
    clip: options.Clip = 1.0,
    lr_schedule: options.Schedule = "constant",
    validate_every: options.ValidateEvery = 5,
    patience: options.Patience = 2,
    checkpoint_every: options.CheckpointEvery = 5,
    gradient: options.Gradient = "exact",
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    tracker: options.Trackers = ["tensorboard"],  # noqa: B006 - typer copies it
    config: options.Config = None,
    out: options.Out = Path("runs/stylize"),
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Fine-tune towards the style of one reference picture. --metric adds to its Gram distance.

    Loads in stock diffusers.
    """
    training, unseen = split_prompts(prompts, held_out)
    from adjointdpm.optimization.loop import Settings
    from adjointdpm.tasks.stylize import StylizeConfig
    from adjointdpm.tasks.stylize import stylize as run

    settings = StylizeConfig(
        style=str(style),
        metric=metric,
        weights=weight,
        full=full,
        rank=rank,
        alpha=alpha,
        target_modules=target_module,
        prompts=training,
        held_out=unseen,
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        gradient=gradient,
        seed=seed,
        trackers=[name for name in tracker if name != "none"],
        optimisation=Settings(
            iterations=iterations,
            batch=batch,
            accumulate=accumulate,
            learning_rate=lr,
            schedule=lr_schedule,
            max_gradient_norm=clip,
            preservation=preservation,
            distance=distance,
            ema=ema,
            validate_every=validate_every,
            patience=patience,
            checkpoint_every=checkpoint_every,
            seed=seed,
        ),
    )
    _learn(
        run,
        settings,
        f"learning the style of {style.name}",
        _Where(model, device, dtype, out, resume, force),
    )


def guide(
    context: typer.Context,
    metric: options.Metrics,
    prompt: Annotated[str | None, typer.Option(help="What to draw.")] = None,
    prompts: Annotated[
        PromptSource | None,
        typer.Option(
            parser=PromptSource,
            metavar="FILE",
            help="A file that holds the one prompt, in place of --prompt.",
        ),
    ] = None,
    model: options.Model = "tiny",
    weight: options.Weights = [],  # noqa: B006 - typer copies it
    learn: Annotated[str, typer.Option(help="noise, embedding, or both.")] = "noise",
    within: Annotated[
        str, typer.Option(help="Where the noise stays: shell, l2, linf or free.")
    ] = "shell",
    budget: Annotated[
        float | None, typer.Option(help="How far it may go, for l2 and linf.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Start from this picture, inverted to noise, instead of a seed."),
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, help="How many, with seeds of their own.")] = 1,
    steps: options.Steps = 50,
    guidance_scale: options.GuidanceScale = None,
    sampler: options.Sampler = None,
    iterations: options.Iterations = 20,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Pictures in one graph; by default all of them.")
    ] = None,
    lr: options.LearningRate = 0.02,
    preservation: options.Preservation = 0.2,
    ema: options.Ema = 0.0,
    distance: options.Distance = 0.0,
    likelihood: options.Likelihood = 0.0,
    clip: options.Clip = 1.0,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop after this many iterations without progress; by default never."
        ),
    ] = None,
    checkpoint_every: options.CheckpointEvery = 5,
    gradient: options.Gradient = "exact",
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "float32",
    tracker: options.Trackers = ["tensorboard"],  # noqa: B006 - typer copies it
    config: options.Config = None,
    out: options.Out = Path("runs/guide"),
    resume: options.Resume = False,
    force: options.Force = False,
) -> None:
    """Optimise the noise or the embedding of one prompt for a metric, and keep every picture on the
    way.
    """
    lines = _one_prompt(context, prompt, prompts)
    batch = pictures if batch is None else batch
    if pictures % batch:
        raise InvalidInputError(
            f"--batch {batch} does not divide --pictures {pictures}: every iteration moves all of "
            f"them"
        )
    from adjointdpm.optimization.loop import Settings
    from adjointdpm.tasks.guide import GuideConfig
    from adjointdpm.tasks.guide import guide as run

    settings = GuideConfig(
        metric=metric,
        weights=weight,
        prompts=[line for line in lines for _ in range(pictures)],
        held_out=lines[:1],
        learn=learn,
        within=within,
        budget=budget,
        picture=None if picture is None else str(picture),
        steps=steps,
        guidance_scale=guidance_scale,
        sampler=sampler,
        gradient=gradient,
        seed=seed,
        trackers=[name for name in tracker if name != "none"],
        optimisation=Settings(
            iterations=iterations,
            batch=batch,
            accumulate=pictures // batch,
            learning_rate=lr,
            max_gradient_norm=clip,
            preservation=preservation,
            distance=distance,
            likelihood=likelihood,
            ema=ema,
            validate_every=1,
            patience=iterations if patience is None else patience,
            checkpoint_every=checkpoint_every,
            seed=seed,
        ),
    )
    _learn(run, settings, "guiding", _Where(model, device, dtype, out, resume, force))


def _one_prompt(
    context: typer.Context, prompt: str | None, prompts: PromptSource | None
) -> list[str]:
    """The lines of the one of both that is given, or that overrides what --config says in its
    place.
    """
    if (
        prompt is not None
        and prompts is not None
        and is_from_config(context, "prompt") != is_from_config(context, "prompts")
    ):
        prompt, prompts = (None, prompts) if is_from_config(context, "prompt") else (prompt, None)
    if prompt is not None and prompts is None:
        return [prompt]
    if prompts is not None and prompt is None:
        return prompts.read()
    raise PromptError("guide takes one prompt: --prompt TEXT, or --prompts FILE with one line")


class _Where:
    """Which model, and which folder; not part of what is learned."""

    def __init__(
        self, model: str, device: str | None, dtype: str, out: Path, resume: bool, force: bool
    ) -> None:
        self.model, self.device, self.dtype, self.out, self.resume, self.force = (
            model,
            device,
            dtype,
            out,
            resume,
            force,
        )


def _learn(run: Callable[..., dict[str, Any]], settings: Any, title: str, where: _Where) -> None:
    """Check everything that is cheap to check, open the folder, learn, and say what came out."""
    quiet()
    from dataclasses import asdict

    from adjointdpm.metrics.subject_recognition import recogniser_for
    from adjointdpm.runs.folder import RunFolder
    from adjointdpm.runs.report import write_report
    from adjointdpm.support.distributed import Processes

    metric = settings.resolve_metric()
    task = run.__name__
    facts = {"task": task, "model": where.model, "dtype": where.dtype} | asdict(settings)
    folder = RunFolder.open(
        where.out, facts, artefacts=settings.artefacts, resume=where.resume, force=where.force
    )
    model = options.load_model(where.model, where.device, where.dtype)
    independent = where.model == "tiny" and not metric.asks_judge
    recognise = recogniser_for(settings.held_out) if independent else None
    iterations = settings.optimisation.iterations
    with progress_bar(visible=folder.writable) as progress:
        bar = progress.add_task(
            title, total=iterations, metric="drawing the untouched model's pictures"
        )
        show = show_records(progress, bar, iterations)
        result = run(
            model,
            settings,
            folder,
            command=command_line(),
            recognise=recognise,
            resume=where.resume,
            on_record=show,
        )
        progress.update(bar, completed=iterations)
    if not Processes().is_main:
        return
    held_out = result["held_out"]
    known = ""
    if "recognised" in held_out:
        shares = held_out["recognised"]
        known = (
            f"An independent judge finds the subject in {shares['before']:.0%} of the pictures "
            f"before and in {shares['after']:.0%} after.\n"
        )
    count = held_out["examples"]
    examples = "a prompt and seed" if count == 1 else f"{count} prompts and seeds"
    where_measured = (
        "On these pictures"
        if held_out.get("same_examples")
        else f"On {examples} never used for learning"
    )
    if result["optimisation"]["best_iteration"] == 0:
        known = (
            "No iteration improved the objective, the metric with what is added to it: the start "
            f"was kept.\n{known}"
        )
    tell(
        f"{where_measured}, {result['metric']['name']} goes from {held_out['before']:.3f} to "
        f"{held_out['after']:.3f} (lower is better).\n"
        f"{known}Report: {write_report(folder)}\nLearned: {folder.path / result['artefact']}"
    )
