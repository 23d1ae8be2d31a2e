"""The command line: thin, and quick to say what it can do, since torch and diffusers are imported inside the commands."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from adjointdpm.errors import AdjointDPMError, OutputError, PromptError

app = typer.Typer(
    help="Gradients through a diffusion sampler, in the memory of one network call.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
_console = Console(stderr=True)

Seed = Annotated[int, typer.Option(help="Fixes everything random.", min=0)]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run wrote.")]


def main() -> None:
    """Run the command line; a mistake of the user's is one line on stderr and exit code 2."""
    try:
        app(standalone_mode=True)
    except AdjointDPMError as error:
        _console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        _console.print(str(interrupt) or "interrupted", markup=False, highlight=False, soft_wrap=True)
        sys.exit(130)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/demo"),
    gradient: Annotated[str, typer.Option(help="exact, or adjoint (the report then states its error against exact).")] = "exact",
    seed: Seed = 0,
    iterations: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 12,
    steps: Annotated[int, typer.Option(min=1, help="Sampler steps that the gradient runs through.")] = 50,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    force: Force = False,
    storyboard: Annotated[Path | None, typer.Option(help="Also write one picture that tells the story, a PNG.")] = None,
) -> None:
    """Learn a word from a metric alone, with the bundled model: a few minutes on two cores, no download."""
    _quiet()
    from dataclasses import asdict

    from adjointdpm.gradients import resolve
    from adjointdpm.models import load
    from adjointdpm.report import write_report
    from adjointdpm.run_folder import RunFolder
    from adjointdpm.storyboard import write_storyboard
    from adjointdpm.tasks.demo import demo as run_demo
    from adjointdpm.tasks.demo import demo_config

    resolve(gradient)
    config = demo_config(gradient, seed, iterations, steps)
    folder = RunFolder.open(out, {"task": "demo", "model": "tiny"} | asdict(config), resume=resume, force=force)
    model = load("tiny")
    with _progress() as progress:
        bar = progress.add_task(f"learning {config.token}", total=iterations, metric="drawing the untouched model's pictures")

        def show(record: dict[str, Any]) -> None:
            values = record.get("validation") or record["training"]
            text = f"metric {values['metric']:.3f}  structure {values['drift']:.3f}"
            done = record["iteration"] == iterations
            progress.update(bar, completed=record["iteration"], metric=text + ("  measuring on held-out prompts" if done else ""))

        result = run_demo(model, config, folder, command=_command(), resume=resume, on_record=show)
        progress.update(bar, completed=iterations)
    report_path = write_report(folder)
    if storyboard is not None:
        write_storyboard(folder, storyboard)
    held_out, out_console = result["held_out"], Console()
    out_console.print(
        f"On {held_out['examples']} prompts and seeds it never saw, {config.token} takes {result['metric']['name']} "
        f"from {held_out['before']:.3f} to {held_out['after']:.3f} (lower is better; 0 is a perfect match).\n"
        f"An independent judge finds the subject in {held_out['recognised']['before']:.0%} of the pictures before "
        f"and in {held_out['recognised']['after']:.0%} after.\n"
        f"Report: {report_path}\nLearned word, for stock diffusers: {folder.path / result['artefact']}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help='For example "a noto emoji of a red apple".')],
    model: Annotated[str, typer.Option(help='"tiny" (bundled), a folder of a diffusers pipeline, or a hub id.')] = "tiny",
    batch: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 4,
    seed: Seed = 0,
    steps: Annotated[int, typer.Option(min=1)] = 50,
    guidance_scale: Annotated[float, typer.Option()] = 5.0,
    sampler: Annotated[
        str | None, typer.Option(help="A native sampler such as euler or dpm_solver_pp; without it, the pipeline's own scheduler.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the PNG files.")] = Path("pictures"),
    force: Force = False,
) -> None:
    """Write pictures of a prompt."""
    if not prompt.strip():
        raise PromptError("the prompt is empty; say what the picture should show")
    files = [out / f"{_slug(prompt)}-{seed}-{i}.png" for i in range(batch)]
    existing = [str(file) for file in files if file.exists()]
    if existing and not force:
        raise OutputError(f"{', '.join(existing)} would be overwritten; use --force, or another --out or --seed")
    _quiet()
    import torch

    from adjointdpm.files import write_bytes
    from adjointdpm.models import load
    from adjointdpm.run_folder import png

    pipeline = load(model)
    with torch.no_grad():
        images = pipeline.generate(prompt, pipeline.noise(batch, seed), steps=steps, guidance_scale=guidance_scale, sampler=sampler)
    for file, image in zip(files, images, strict=True):
        typer.echo(str(write_bytes(file, png(image))))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A finished run.")]) -> None:
    """Write report.html of a run folder again."""
    from adjointdpm.report import write_report
    from adjointdpm.run_folder import RunFolder

    typer.echo(str(write_report(RunFolder(folder))))


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[metric]}"),
    )
    return Progress(*columns, console=_console)


def _command() -> str:
    """The command line that repeats this run: without the flags that say what to do with an earlier one."""
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--resume", "--force")]
    return shlex.join(["adjointdpm", *arguments])


def _slug(prompt: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in prompt.lower()).split()
    return "-".join(words)[:60].rstrip("-") or "picture"


def _quiet() -> None:
    """Keep other libraries' loading chatter off the terminal, and slow denormal numbers out of the arithmetic."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    import diffusers
    import torch
    import transformers

    torch.set_flush_denormal(True)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
