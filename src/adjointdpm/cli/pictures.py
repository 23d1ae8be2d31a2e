"""`generate` and `report`: pictures from a prompt, and a finished run's report again."""

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli.options import Run, load_model, option
from adjointdpm.cli.terminal import quiet, tell
from adjointdpm.errors import OutputError, PromptError, UnsupportedError
from adjointdpm.support.checks import check_int
from adjointdpm.support.files import check_path, check_writable, cut_to_bytes, write_bytes
from adjointdpm.support.limits import check_count
from adjointdpm.tasks.config import NAME_VALUE, Sampling


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(
            help='For example "a noto emoji of a red apple"; a class for a class-conditional '
            "model, and nothing for an unconditional one."
        ),
    ] = None,
    model: Annotated[str, option(Run, "model")] = Run.model,
    batch: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the noise of every picture.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampler steps.")] = 50,
    guidance_scale: Annotated[float | None, option(Sampling, "guidance_scale")] = None,
    sampler: Annotated[str | None, option(Sampling, "sampler")] = None,
    pipeline_arg: Annotated[
        list[str] | None, option(Sampling, "pipeline_arg", metavar=NAME_VALUE)
    ] = None,
    learned: Annotated[
        Path | None,
        typer.Option(help="Draw with what a run has learned, a token or a LoRA: its run folder."),
    ] = None,
    strength: Annotated[
        float,
        typer.Option(help="How much of a LoRA: 0 is the untouched model, 1 what was learned."),
    ] = 1.0,
    device: Annotated[str | None, option(Run, "device")] = None,
    dtype: Annotated[str, option(Run, "dtype")] = Run.dtype,
    variant: Annotated[str | None, option(Run, "variant")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the PNG files.")] = Path("pictures"),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite pictures of the same names.")
    ] = False,
) -> None:
    """Write pictures of a prompt; of a video, frames side by side."""
    if prompt is not None and not prompt.strip():
        raise PromptError("the prompt is empty; say what the picture should show")
    check_count("batch", batch)
    check_count("steps", steps)
    check_int("seed", seed, 0, most=2**63 - 1, why="seeds have 64 bits")
    files = [out / f"{_slug(prompt or Path(model).name)}-{seed}-{i}.png" for i in range(batch)]
    _check_files(out, files, force)
    quiet()
    import torch

    from adjointdpm.pipelines.arguments.call_arguments import call_arguments, loaded
    from adjointdpm.pipelines.arguments.prompting import NOTHING, reads
    from adjointdpm.pipelines.learned_files import load_learned
    from adjointdpm.runs.folder import png

    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise OutputError(f"--out {out}: {there} is a file; choose a folder")
    check_writable(there)
    pipeline = load_model(model, device, dtype, variant)
    if learned is not None:
        load_learned(pipeline.pipe, learned, strength)
    if prompt is None and (kind := reads(pipeline.pipe)) != NOTHING:
        raise PromptError(f"{type(pipeline.pipe).__name__} reads {kind}: say what to draw")
    arguments = loaded(call_arguments(pipeline.pipe, pipeline_arg or []))
    with torch.no_grad():
        images = pipeline.generate(
            prompt,
            pipeline.noise(batch, seed, **arguments),
            steps=steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            **arguments,
        )
    if images.ndim not in (4, 5) or images.shape[-3] != 3:
        raise UnsupportedError(
            f"{type(pipeline.pipe).__name__} makes samples of shape {tuple(images.shape[1:])}, "
            "which are no pictures or videos to write; adjointdpm.load(…).generate returns them"
        )
    for file, image in zip(files, images, strict=True):
        tell(str(write_bytes(file, png(image))))


def report(folder: Annotated[Path, typer.Argument(help="A finished run.")]) -> None:
    """Write report.html of a run folder again."""
    from adjointdpm.runs.folder import RunFolder
    from adjointdpm.runs.report import write_report

    tell(str(write_report(RunFolder(folder))))


def _check_files(out: Path, files: list[Path], force: bool) -> None:
    """Raise OutputError if a picture could not be written, or would overwrite something."""
    check_path(out)
    if folders := [str(file) for file in files if file.is_dir()]:
        raise OutputError(
            f"{', '.join(folders)} is a folder; move it away, or choose another --out"
        )
    existing = [str(file) for file in files if file.exists()]
    if existing and not force:
        raise OutputError(
            f"{', '.join(existing)} would be overwritten; use --force, or another --out or --seed"
        )


def _slug(prompt: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in prompt.lower()).split()
    return cut_to_bytes("-".join(words)).rstrip("-") or "picture"
