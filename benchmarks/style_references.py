"""What `stylize` takes over from four reference pictures, with default flags.

`python -m benchmarks.style_references --page docs/style-references.md \
--picture docs/images/style-references.png`

Each run is a command line in a process of its own. The held-out prompts are those of the demo; the
judge knows all subjects.
"""

import json
import math
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from adjointdpm.errors import OutputError
from adjointdpm.runs.folder import RunFolder, png
from adjointdpm.runs.storyboard import Band, write_storyboard
from adjointdpm.support.files import write_bytes, write_text
from adjointdpm.tasks.demo import HELD_OUT, prompts_of, reference_pattern
from benchmarks.common import (
    Page,
    PageOnly,
    check_known,
    has_results,
    machine,
    publish,
    read_results,
    run,
    table,
    tell,
    usable_cores,
    write_results,
)
from benchmarks.stylize import concepts
from benchmarks.user_process import ADJOINTDPM, run_as_user

RESULTS = "style-references"
WORK = Path(__file__).parent / "work" / RESULTS
SIDE = 64
LIMIT = 1200.0  # seconds
LEARNED: dict[str, list[str]] = {"LoRA": [], "all weights": ["--full"]}

Picture = Float[Tensor, "3 height width"]


def bricks() -> Picture:
    """A wall: rows of red bricks, each half a brick further than the last, and pale mortar."""
    y, x = _grid()
    row = (8 * y).floor()
    along = 4 * x + row % 2 / 2
    mortar = (along % 1 < 0.1) | (8 * y % 1 < 0.2)
    # Some number between 0 and 1 for each brick.
    tone = (torch.sin(12.9 * along.floor() + 78.2 * row) * 43.7) % 1 / 4
    wall = _color(0.62, 0.22, 0.15) + tone * _color(1.0, 0.5, 0.4)
    return torch.where(mortar, _color(0.85, 0.82, 0.76), wall)


def strokes() -> Picture:
    """A painter's night: blue and yellow strokes that follow two vortices and a wave."""
    y, x = _grid()
    height = 0.7 * torch.sin(2 * math.pi * (6 * y + 1.2 * torch.sin(2.6 * math.pi * x)))
    for across, down, turns in ((0.3, 0.3, 9), (0.72, 0.45, 8)):
        far = (x - across).hypot(y - down)
        angle = torch.atan2(y - down, x - across)
        height += torch.sin(2 * angle + 2 * math.pi * turns * far) * torch.exp(-3 * far)
    share = (height - height.min()) / (height.max() - height.min())
    night, day = _color(0.05, 0.10, 0.35), _color(0.15, 0.40, 0.70)
    dark = torch.lerp(night.expand(3, SIDE, SIDE), day.expand(3, SIDE, SIDE), 2 * share)
    light = torch.lerp(
        day.expand(3, SIDE, SIDE), _color(0.98, 0.88, 0.45).expand(3, SIDE, SIDE), 2 * share - 1
    )
    return torch.where(share < 0.5, dark, light).clamp(0, 1)


def hatching() -> Picture:
    """A drawing in ink on cream paper: lines that cross, closer to each other below."""
    y, x = _grid()
    one = torch.sin(2 * math.pi * 9 * (x + y)) > 0.55
    other = (torch.sin(2 * math.pi * 9 * (x - y)) > 0.55) & (y > 0.35)
    third = (torch.sin(2 * math.pi * 14 * y) > 0.7) & (y > 0.65)
    return torch.where(one | other | third, _color(0.12, 0.10, 0.16), _color(0.96, 0.93, 0.84))


REFERENCES: dict[str, Callable[[], Picture]] = {
    "waves": reference_pattern,
    "bricks": bricks,
    "strokes": strokes,
    "hatching": hatching,
}
#: Those that a setting was tried on, with other prompts and seeds.
LIKE_TUNING = ("bricks", "strokes")


def command(reference: str, learned: str) -> list[str]:
    """What is typed, after `adjointdpm`."""
    files = ["--prompts", "prompts.txt", "--held-out", "held-out.txt"]
    style = ["--style", f"{reference}.png", "--out", folder_of(reference, learned)]
    return ["stylize", *files, *style, *LEARNED[learned]]


def folder_of(reference: str, learned: str) -> str:
    """The run's folder in `WORK`."""
    return f"{reference}-{learned.replace(' ', '-')}"


def supply() -> None:
    """Write the files that the commands name."""
    training, _ = concepts(tuning=False)
    for name, names in (("prompts", training), ("held-out", HELD_OUT)):
        write_text(WORK / f"{name}.txt", "\n".join(prompts_of(names)) + "\n")
    for name, draw in REFERENCES.items():
        write_bytes(WORK / f"{name}.png", png(draw()))


def measure(reference: str, learned: str) -> dict[str, Any]:
    """Run one command and keep what its `result.json` says.

    Raises:
        OutputError: it failed.

    """
    words = command(reference, learned)
    finished = run_as_user([*ADJOINTDPM, *words, "--force"], WORK, LIMIT, usable_cores())
    if finished.code != 0:
        raise OutputError(
            f"adjointdpm {' '.join(words)}: exit code {finished.code}, {finished.why}"
        )
    result = json.loads((WORK / folder_of(reference, learned) / "result.json").read_text("utf-8"))
    kept = ("before", "after", "change", "interval", "examples", "recognised", "diversity")
    return {
        "command": words,
        "cpu_seconds": finished.cpu_seconds,
        "strength": result["strength"]["chosen"] if result.get("strength") else None,
        **{name: result["held_out"][name] for name in (*kept, "recognised_interval")},
    }


def report(content: Mapping[str, Any]) -> str:
    """The table of `results/style-references.json`."""
    head = [
        "reference",
        "learned",
        "Gram distance",
        "change, 95 % interval",
        "judge finds the subject",
        "diversity",
        "strength",
        "seconds of one core",
    ]
    rows = []
    for reference in REFERENCES:
        for learned in LEARNED:
            if facts := content["runs"].get(f"{reference}/{learned}"):
                low, high = (end / facts["before"] for end in facts["interval"])
                shares = [facts["recognised"][view] for view in ("before", "after")]
                interval = facts["recognised_interval"]["after"]
                rows.append(
                    [
                        f"{reference}{'*' if reference in LIKE_TUNING else ''}",
                        learned,
                        f"{facts['before']:.3f} → {facts['after']:.3f}",
                        f"{facts['change'] / facts['before']:+.0%} [{low:+.0%}, {high:+.0%}]",
                        f"{shares[0]:.0%} → {shares[1]:.0%} [{interval[0]:.0%}, {interval[1]:.0%}]",
                        f"{facts['diversity']:.2f}",
                        "–" if facts["strength"] is None else f"{facts['strength']:g}",
                        f"{facts['cpu_seconds']:.0f}",
                    ]
                )
    return (
        f"{table(head, rows)}\n\nEach on {max(f['examples'] for f in content['runs'].values())} "
        f"pictures of prompts and seeds that were not learned from; {content['machine']}."
    )


def draw(path: Path) -> None:
    """Each reference with pictures before and after, of the LoRAs."""
    bands = []
    for reference in REFERENCES:
        folder = RunFolder(WORK / folder_of(reference, "LoRA"))
        result = json.loads((folder.path / "result.json").read_text("utf-8"))
        views = {"before": "before", "after": "after"}
        bands.append(Band(folder, result, views, WORK / f"{reference}.png"))
    write_storyboard(bands, path)
    with Image.open(path) as sheet:
        small = BytesIO()
        sheet.quantize(256).save(small, "PNG", optimize=True)
    write_bytes(path, small.getvalue())


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(help="References. Repeatable.", show_default=", ".join(REFERENCES)),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what has a result.")] = False,
    page: Page = None,
    picture: Annotated[Path | None, typer.Option(help="Where pictures are shown.")] = None,
    page_only: PageOnly = False,
) -> None:
    """Run every command that has no result, and make the page."""
    check_known("--only", only or (), REFERENCES)
    content = read_results(RESULTS) if has_results(RESULTS) else {"runs": {}}
    if not page_only:
        WORK.mkdir(parents=True, exist_ok=True)
        supply()
        for reference in only or REFERENCES:
            for learned in LEARNED:
                name = f"{reference}/{learned}"
                if again or name not in content["runs"]:
                    tell(f"{name} …")
                    content["runs"][name] = measure(reference, learned)
                    write_results(RESULTS, content | {"machine": machine()})
        content = read_results(RESULTS)
    if picture is not None:
        draw(picture)
    publish(report(content), page)


def _grid() -> list[Tensor]:
    return list(torch.meshgrid(*[torch.linspace(0, 1, SIDE)] * 2, indexing="ij"))


def _color(*channels: float) -> Tensor:
    return torch.tensor(channels).view(3, 1, 1)


if __name__ == "__main__":
    run(main)
