"""The gallery, from finished runs: `python benchmarks/gallery.py runs/audit runs/stylize …` writes docs/gallery.md and its pictures."""

import json
from pathlib import Path

import typer

from adjointdpm.files import write_text
from adjointdpm.run_folder import RunFolder
from adjointdpm.storyboard import Band, write_storyboard

DOCS = Path(__file__).parents[1] / "docs"


def main(folders: list[Path], columns: int = 8) -> None:
    """One picture and one section for each run, with the command that made it."""
    sections = ["# Gallery\n\nHeld-out prompts and seeds: no picture here was optimised itself, but for those of `audit` and `guide`."]
    for folder in folders:
        result = json.loads((folder / "result.json").read_text())
        task, name = result["task"], f"gallery-{folder.name}.png"
        labels = {view: view.replace("_", " ") for view in result["story"]["views"]}
        write_storyboard([Band(RunFolder(folder), result, labels, verdicts="success" in result)], DOCS / "images" / name, columns)
        lead = result["story"]["lead"].replace("\n", " ")
        command = f"\n\n```console\n$ {result['command']}\n```" if result["command"] else ""
        sections.append(f"## {task}: {result['story']['title']}\n\n{lead}\n\n![{task}](images/{name}){command}")
    write_text(DOCS / "gallery.md", "\n\n".join(sections) + "\n")


if __name__ == "__main__":
    typer.run(main)
