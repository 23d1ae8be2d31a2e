"""`demo`: everything on the bundled model, without a download."""

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli import options
from adjointdpm.cli.terminal import command_line, progress_bar, quiet, tell


def demo(
    out: options.Out = Path("runs/demo"),
    gradient: Annotated[
        str,
        typer.Option(help="exact, or adjoint (the report then states its error against exact)."),
    ] = "exact",
    seed: options.Seed = 0,
    iterations: Annotated[
        int, typer.Option(min=1, help="Optimiser steps; a third more for the style.")
    ] = 12,
    steps: Annotated[
        int, typer.Option(min=1, help="Sampler steps that the gradient runs through.")
    ] = 50,
    only_embed: Annotated[
        bool, typer.Option("--only-embed", help="Learn the word alone: half the time.")
    ] = False,
    resume: options.Resume = False,
    force: options.Force = False,
    storyboard: Annotated[
        Path | None, typer.Option(help="Also write the picture that tells the story here, a PNG.")
    ] = None,
) -> None:
    """Learn a word from a metric alone, a style from one picture, and fool a classifier: with the
    bundled model, in minutes.
    """
    quiet()
    from dataclasses import asdict

    from adjointdpm.engine.gradients import resolve
    from adjointdpm.errors import ModelError, OutputError
    from adjointdpm.metrics.networks import load_network
    from adjointdpm.runs.folder import RunFolder
    from adjointdpm.runs.report import write_report
    from adjointdpm.support.files import check_writable, write_bytes
    from adjointdpm.tasks.demo import demo as run
    from adjointdpm.tasks.demo import demo_config

    resolve(gradient)
    judges, missing = not only_embed, ""
    if judges:
        try:
            load_network("efficientnet-lite0")
        except ModelError as error:
            judges, missing = False, f"stylize and audit were left out: {error}\n"
    config = demo_config(gradient, seed, iterations, steps, judges=judges)
    folder = RunFolder.open(
        out,
        {"task": "demo", "model": "tiny"} | asdict(config),
        artefacts=config.artefacts,
        resume=resume,
        force=force,
    )
    if storyboard is not None:
        if storyboard.is_dir():
            raise OutputError(
                f"--storyboard {storyboard} is a folder; name the picture in it, such as "
                f"{storyboard / 'story.png'}"
            )
        check_writable(storyboard.parent)
    model = options.load_model("tiny", "cpu")
    with progress_bar() as progress:
        bars = {}

        def report(part: str, done: int, total: int, text: str) -> None:
            if part not in bars:
                for bar in bars.values():
                    progress.update(bar, metric="")
                bars[part] = progress.add_task(part, total=total, metric=text)
            progress.update(bars[part], completed=done, total=total, metric=text)

        result = run(model, config, folder, command=command_line(), resume=resume, report=report)
    report_path = write_report(folder)
    if storyboard is not None:
        write_bytes(storyboard, (folder.path / result["storyboard"]).read_bytes())
    held_out = result["held_out"]
    others = "".join(f"{part['folder']}: {part['summary']}\n" for part in result["parts"])
    tell(
        f"embed: on {held_out['examples']} prompts and seeds it never saw, {config.embed.token} "
        f"takes {result['metric']['name']} from {held_out['before']:.3f} to "
        f"{held_out['after']:.3f} (lower is better; 0 is a perfect match). An independent judge "
        f"finds the subject in {held_out['recognised']['before']:.0%} of the pictures before "
        f"and in {held_out['recognised']['after']:.0%} after.\n"
        f"{others}{missing}In all {result['seconds']:.0f} s, {result['network_calls']} network "
        f"calls, "
        f"peak memory {result['peak_memory_bytes'] / 1e6:.0f} MB\n"
        f"Picture: {folder.path / result['storyboard']}\nReport: {report_path}\n"
        f"Learned word, for stock diffusers: {folder.path / result['artefact']}"
    )
