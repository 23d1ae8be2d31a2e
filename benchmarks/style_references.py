"""What `stylize` takes over from four reference pictures, with default flags.

`python -m benchmarks.style_references --page docs/style-references.md \
--picture docs/images/style-references.png`

Each run is a command line in a process of its own. The held-out prompts are those of the demo; the
judge knows all subjects.
"""

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

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
from benchmarks.reference_pictures import Picture, bricks, hatching, strokes
from benchmarks.stylize import concepts
from benchmarks.user_process import ADJOINTDPM, run_as_user

RESULTS = "style-references"
WORK = Path(__file__).parent / "work" / RESULTS
LIMIT = 1200.0  # seconds


REFERENCES: dict[str, Callable[[], Picture]] = {
    "waves": reference_pattern,
    "bricks": bricks,
    "strokes": strokes,
    "hatching": hatching,
}
#: Those that a setting was tried on, with other prompts and seeds.
LIKE_TUNING = ("bricks", "strokes")


def command(reference: str) -> list[str]:
    """What is typed, after `adjointdpm`."""
    files = ["--prompts", "prompts.txt", "--held-out", "held-out.txt"]
    style = ["--style", f"{reference}.png", "--out", reference]
    return ["stylize", *files, *style]


def supply() -> None:
    """Write the files that the commands name."""
    training, _ = concepts(tuning=False)
    for name, names in (("prompts", training), ("held-out", HELD_OUT)):
        write_text(WORK / f"{name}.txt", "\n".join(prompts_of(names)) + "\n")
    for name, draw in REFERENCES.items():
        write_bytes(WORK / f"{name}.png", png(draw()))


def measure(reference: str) -> dict[str, Any]:
    """Run one command and keep what its `result.json` says.

    Raises:
        OutputError: it failed.

    """
    words = command(reference)
    finished = run_as_user([*ADJOINTDPM, *words, "--force"], WORK, LIMIT, usable_cores())
    if finished.code != 0:
        raise OutputError(
            f"adjointdpm {' '.join(words)}: exit code {finished.code}, {finished.why}"
        )
    result = json.loads((WORK / reference / "result.json").read_text("utf-8"))
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
        "Gram distance",
        "change, 95 % interval",
        "judge finds the subject",
        "diversity",
        "strength",
        "seconds of one core",
    ]
    rows = []
    for reference in REFERENCES:
        if facts := content["runs"].get(reference):
            low, high = (end / facts["before"] for end in facts["interval"])
            shares = [facts["recognised"][view] for view in ("before", "after")]
            interval = facts["recognised_interval"]["after"]
            rows.append(
                [
                    f"{reference}{'*' if reference in LIKE_TUNING else ''}",
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
        folder = RunFolder(WORK / reference)
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
            if again or reference not in content["runs"]:
                tell(f"{reference} …")
                content["runs"][reference] = measure(reference)
                write_results(RESULTS, content | {"machine": machine()})
        content = read_results(RESULTS)
    if picture is not None:
        draw(picture)
    publish(report(content), page)


if __name__ == "__main__":
    run(main)
