"""The table of docs/audit.md, from a finished audit: `python benchmarks/audit_page.py runs/audit --page docs/audit.md`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from common import fill, machine, table


def main(
    folder: Path,
    page: Annotated[Path | None, typer.Option(help="Page that the table is written into.")] = None,
) -> None:
    """Print the table of a run folder."""
    result = json.loads((folder / "result.json").read_text())
    head = [
        "budget",
        "success [95 %]",
        "random search [95 %]",
        "victim fooled",
        "of these, judge agrees",
        "transfer",
        "steps used",
        "rms change",
    ]
    lines = []
    for row in result["success"]:
        low, high = row["interval"]
        searched = "–"
        if row["random_search"] is not None:
            searched = f"{row['random_search']:.0%} [{row['random_interval'][0]:.0%}, {row['random_interval'][1]:.0%}]"
        transfer = "–" if row["transfer"] is None else f"{row['transfer']:.0%} of {row['transfer_of']}"
        agrees = "–" if row["judge_agrees"] is None else f"{row['judge_agrees']:.0%}"
        lines.append(
            [
                f"{row['budget']:g}",
                f"{row['rate']:.0%} [{low:.0%}, {high:.0%}]",
                searched,
                f"{row['fooled']:.0%}",
                agrees,
                transfer,
                f"{row['iterations']:.1f}",
                f"{row['naturalness']['rms_change']:.3f}",
            ]
        )
    count, groups = len(result["config"]["prompts"]), len(result["victim"]["groups"])
    text = (
        f"{table(head, lines)}\n\n"
        f"Of {count} prompts, {result['held_out']['examples']} are attacked; the victim tells {groups} classes apart. "
        f"{result['seconds'] / 60:.0f} minutes, {result['network_calls']} network calls, on {machine()}."
    )
    print(text)
    if page is not None:
        fill(page, text)


if __name__ == "__main__":
    typer.run(main)
