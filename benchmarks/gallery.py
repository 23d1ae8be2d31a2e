"""The gallery: `python -m benchmarks.gallery` runs its commands and writes its page.

The page is docs/gallery.md, with its pictures. The runs take minutes on one core.

`--only NAME` runs some of them again, `--page-only` none. The page always shows what lies in
benchmarks/work/gallery.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from adjointdpm.runs.folder import RunFolder, png
from adjointdpm.runs.storyboard import Band, write_storyboard
from adjointdpm.support.files import write_bytes, write_text
from adjointdpm.tasks.demo import reference_pattern
from benchmarks.common import check_known, machine, run, tell

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
INPUTS, RUNS = (
    Path("benchmarks/gallery"),
    Path("benchmarks/work/gallery"),
)  # as the commands name them, from the repository's root
COLUMNS, SIDE = 8, 112

# Default flags, since these are what a person gets.
_LEARNING = f"--prompts {INPUTS}/learn.txt --held-out {INPUTS}/held-out.txt"
COMMANDS = {
    "word": f"embed {_LEARNING} --metric color:mood=dusk --token '<dusk>'",
    "style": f"stylize {_LEARNING} --style {INPUTS}/style.png",
    "audit": f"audit --prompts {INPUTS}/audit.txt --budget 0.1 --budget 0.2 --clean-seeds 5 "
    f"--steps 20 --guidance-scale 5 --iterations 8 --batch 8 --no-random-search",
    "way": "guide --prompt 'a noto emoji of an owl' --metric color:mood=teal --learn both",
    "own": f"guide --prompt 'a noto emoji of a red apple' --picture {INPUTS}/apple.png "
    f"--metric color:mood=golden_hour",
}
WORDS = {
    "word": "A word for a mood of colours. Rows: without the word; with the existing word where it "
    "started; with the learned word.",
    "style": "The style of one picture (left, `benchmarks/gallery/style.png`), by a LoRA. Rows: "
    "without it; with it.",
    "audit": "A nudge of the initial noise, and a classifier misreads the picture. Below each "
    "picture is what the victim sees, in red where it is not what it saw in the clean one. Rows: "
    "clean; by budget. How often that succeeds, and how often random search does, is measured in "
    "[audit.md](audit.md) on many more prompts.",
    "way": "One picture on its way: its initial noise and the prompt's embedding move. The number "
    "is the iteration.",
    "own": "A picture of the user's own (`benchmarks/gallery/apple.png`), inverted to noise, which "
    "then moves. First the picture itself, then the iterations; iteration 0 is what inversion and "
    "the bundled autoencoder make of it.",
}


def main(
    only: Annotated[
        list[str] | None, typer.Option(help=f"Run this alone: {', '.join(COMMANDS)}. Repeatable.")
    ] = None,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Run nothing; write the page from finished runs.")
    ] = False,
) -> None:
    """Run the commands and write the page."""
    check_known("--only", only or (), COMMANDS)
    write_bytes(ROOT / INPUTS / "style.png", png(reference_pattern()))
    write_bytes(ROOT / INPUTS / "apple.png", png(apple()))
    for name in [] if page_only else only or COMMANDS:
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "adjointdpm", *arguments(name), "--force"], cwd=ROOT, check=True
        )
        tell(f"{name}: {time.perf_counter() - started:.0f} s")
    folders = {
        name: RunFolder(ROOT / RUNS / name)
        for name in COMMANDS
        if (ROOT / RUNS / name / "result.json").is_file()
    }
    missing = sorted(COMMANDS.keys() - folders.keys())
    if missing:
        tell(f"left out of the page, not run yet: {', '.join(missing)}")
    write_text(DOCS / "gallery.md", text(folders))


def arguments(name: str) -> list[str]:
    """The command's words after `adjointdpm`."""
    return [*shlex.split(COMMANDS[name]), "--out", str(RUNS / name)]


def text(folders: Mapping[str, RunFolder]) -> str:
    """The page; its pictures are written beside it."""
    head = (
        "# Gallery\n\nShort runs on the bundled model, made by `python -m benchmarks.gallery`: the "
        "commands below, this page and its "
        "pictures. The word and the style are shown on prompts and seeds that they were not "
        "learned from; these are the first ones, not the best. All flags but those shown have "
        "their defaults. Measured claims are in the other "
        f"pages. Made on {machine()}."
    )
    sections = [head]
    for name, folder in folders.items():
        result = json.loads((folder.path / "result.json").read_text())
        picture = DOCS / "images" / f"gallery-{name}.png"
        if "trajectory" in result:
            write_bytes(picture, way(folder, result, result["config"]["picture"]))
        else:
            aside = ROOT / INPUTS / "style.png" if name == "style" else None
            views = {view: view.replace("_", " ") for view in result["story"]["views"]}
            write_storyboard(
                [Band(folder, result, views, aside, verdicts="success" in result)], picture, COLUMNS
            )
        command = shlex.join(["adjointdpm", *arguments(name)])
        sections.append(
            f"## {result['task']}: "
            f"{result['story']['title']}\n\n{WORDS[name]}\n\n![{result['task']}](images/{picture.name})\n\n"
            f"{measured(result)}\n\n```console\n$ {command}\n```"
        )
    return "\n\n".join(sections) + "\n"


def measured(result: Mapping[str, Any]) -> str:
    """One line on what came out and what it cost."""
    held_out = result["held_out"]
    if "success" in result:
        rows = [
            f"budget {row['budget']:g}: {row['rate']:.0%} [{row['interval'][0]:.0%}, "
            f"{row['interval'][1]:.0%}]"
            for row in result["success"]
        ]
        what = f"Success on {held_out['examples']} prompts [95 % interval], {'; '.join(rows)}"
    else:
        where = (
            "this picture"
            if held_out.get("same_examples")
            else f"{held_out['examples']} held-out pictures"
        )
        what = f"`{result['metric']['name']}` on {where}: {held_out['before']:.3f} before"
        if "existing_word" in held_out:
            what += f", {held_out['existing_word']:.3f} with the existing word"
        what += f", {held_out['after']:.3f} after"
        if "recognised" in held_out and not held_out.get("same_examples"):
            shares = held_out["recognised"]
            what += (
                f"; an independent judge finds the subject in {shares['before']:.0%} before and "
                f"{shares['after']:.0%} after"
            )
    return f"{what}. {result['seconds']:.0f} s, {result['network_calls']} network calls."


def way(folder: RunFolder, result: Mapping[str, Any], start: str | None) -> bytes:
    """Draw a strip of pictures on the way, evenly spaced, as PNG.

    If the way started from a picture of the user's own, that one comes first.
    """
    steps = result["trajectory"]
    shown = COLUMNS - (start is not None)
    chosen = (
        [round(i * (len(steps) - 1) / (shown - 1)) for i in range(shown)]
        if len(steps) > shown
        else range(len(steps))
    )
    tiles = [(str(i), folder.path / steps[i]) for i in chosen]
    if start is not None:
        tiles.insert(0, ("own picture", ROOT / start))
    canvas = Image.new("RGB", ((SIDE + 6) * len(tiles) - 6, SIDE + 20), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for column, (label, path) in enumerate(tiles):
        left = column * (SIDE + 6)
        with Image.open(path) as image:
            canvas.paste(
                image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, 0)
            )
        draw.text((left + SIDE // 2, SIDE + 3), label, fill="#1f2430", font=font, anchor="ma")
    buffer = BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def apple(side: int = 64) -> Float[Tensor, "3 side side"]:
    """Draw a red apple with a leaf on white, in [0, 1].

    A formula draws it, so that it is nobody's picture.
    """
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")

    def inside(distance: Tensor) -> Tensor:
        return torch.sigmoid(-distance * side)

    body = (
        torch.minimum(
            (x - 0.22).square() + (y - 0.18).square(), (x + 0.22).square() + (y - 0.18).square()
        ).sqrt()
        - 0.48
    )
    leaf = (
        ((x - 0.25) * 0.8 + (y + 0.55) * 0.6).square() / 0.06
        + ((y + 0.55) * 0.8 - (x - 0.25) * 0.6).square() / 0.015
        - 1
    )
    stem = torch.maximum((x - 0.02 + 0.1 * y).abs() - 0.04, (y + 0.5).abs() - 0.25)
    shine = ((x + 0.32).square() / 0.02 + (y + 0.02).square() / 0.05).sqrt() - 1
    picture = torch.ones(3, side, side)
    for shape, color in (
        (body, (0.86, 0.16, 0.18)),
        (shine / 4, (0.97, 0.55, 0.52)),
        (stem, (0.45, 0.28, 0.15)),
        (leaf / 4, (0.35, 0.66, 0.25)),
    ):
        picture = torch.lerp(
            picture, torch.tensor(color).view(3, 1, 1).expand_as(picture), inside(shape)
        )
    return picture


if __name__ == "__main__":
    run(main)
