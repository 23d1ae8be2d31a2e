"""`generate` and `report`: pictures from a prompt, and a finished run's report again."""

from pathlib import Path
from typing import Annotated

import typer

from adjointdpm.cli.options import Run, load_model, option
from adjointdpm.cli.terminal import quiet
from adjointdpm.errors import OutputError, PromptError
from adjointdpm.tasks.config import Sampling


def generate(
    prompt: Annotated[str, typer.Argument(help='For example "a noto emoji of a red apple".')],
    model: Annotated[str, option(Run, "model")] = Run.model,
    batch: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the noise of every picture.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Sampler steps.")] = 50,
    guidance_scale: Annotated[
        float, typer.Option(help="Strength of classifier-free guidance; 1 is none.")
    ] = 5.0,
    sampler: Annotated[str | None, option(Sampling, "sampler")] = None,
    device: Annotated[str | None, option(Run, "device")] = None,
    dtype: Annotated[str, option(Run, "dtype")] = Run.dtype,
    out: Annotated[Path, typer.Option(help="Folder for the PNG files.")] = Path("pictures"),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite pictures of the same names.")
    ] = False,
) -> None:
    """Write pictures of a prompt."""
    if not prompt.strip():
        raise PromptError("the prompt is empty; say what the picture should show")
    files = [out / f"{_slug(prompt)}-{seed}-{i}.png" for i in range(batch)]
    existing = [str(file) for file in files if file.exists()]
    if existing and not force:
        raise OutputError(
            f"{', '.join(existing)} would be overwritten; use --force, or another --out or --seed"
        )
    quiet()
    import torch

    from adjointdpm.runs.folder import png
    from adjointdpm.support.files import check_writable, write_bytes

    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise OutputError(f"--out {out}: {there} is a file; choose a folder")
    check_writable(there)
    pipeline = load_model(model, device, dtype)
    with torch.no_grad():
        images = pipeline.generate(
            prompt,
            pipeline.noise(batch, seed),
            steps=steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
        )
    for file, image in zip(files, images, strict=True):
        typer.echo(str(write_bytes(file, png(image))))


def report(folder: Annotated[Path, typer.Argument(help="A finished run.")]) -> None:
    """Write report.html of a run folder again."""
    from adjointdpm.runs.folder import RunFolder
    from adjointdpm.runs.report import write_report

    typer.echo(str(write_report(RunFolder(folder))))


def _slug(prompt: str) -> str:
    words = "".join(c if c.isalnum() else " " for c in prompt.lower()).split()
    return "-".join(words)[:60].rstrip("-") or "picture"
