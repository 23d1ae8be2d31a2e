"""The tables of docs/audit.md, from the run folders of audits.

`python -m benchmarks.audit_page runs/audit runs/audit-targeted --page docs/audit.md`
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.common import Page, machine, publish, run, table

HEAD = [
    "budget",
    "success [95 %]",
    "random search [95 %]",
    "victim fooled",
    "of these, judge agrees",
    "transfer",
    "steps used",
    "rms change",
]


def main(
    folders: Annotated[list[Path], typer.Argument(help="Run folders of `adjointdpm audit`.")],
    page: Page = None,
) -> None:
    """Print the tables of run folders, one each."""
    text = "\n\n".join(
        [
            *(section(json.loads((folder / "result.json").read_text())) for folder in folders),
            f"Measured on {machine()}.",
        ]
    )
    publish(text, page)


def section(result: dict[str, Any]) -> str:
    """Make the table of one `result.json`.

    A line above says what it is of, a line below what it cost.
    """
    config, victim = result["config"], result["victim"]
    targets = {row.get("target") for row in result["success"]}
    names = " and ".join(f"targeted at “{name}”" for name in sorted(filter(None, targets)))
    goal = " and ".join(filter(None, ["untargeted" if None in targets else "", names]))
    if len(targets) == 1 and None in targets and isinstance(config["target"], str):
        goal = f"targeted at “{config['target']}”"  # results made before rows named their target
    above = (
        f"**{victim['name']}, {goal}**, {config['iterations']} steps, gradient "
        f"`{config['gradient']}`:"
    )
    below = (
        f"Of {len(config['prompts'])} prompts, {result['held_out']['examples']} are attacked; the "
        f"victim tells {len(victim['groups'])} classes apart. {result['seconds'] / 60:.0f} "
        f"minutes, {result['network_calls']} network calls."
    )
    tries = {row["random_tries"] for row in result["success"] if row["random_search"] is not None}
    if tries:
        cost = result["success"][0]["forward_equivalents"]
        below += (
            f" An attack costs at most as much as {cost:.1f} pictures; random search draws "
            f"{max(tries)}."
        )
    return f"{above}\n\n{table(HEAD, [_line(row) for row in result['success']])}\n\n{below}"


def _line(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['budget']:g}",
        _share(row["rate"], row["interval"]),
        "–"
        if row["random_search"] is None
        else _share(row["random_search"], row["random_interval"]),
        f"{row['fooled']:.0%}",
        "–" if row["judge_agrees"] is None else f"{row['judge_agrees']:.0%}",
        "–" if row["transfer"] is None else f"{row['transfer']:.0%} of {row['transfer_of']}",
        f"{row['iterations']:.1f}",
        f"{row['naturalness']['rms_change']:.3f}",
    ]


def _share(rate: float, interval: list[float]) -> str:
    return f"{rate:.0%} [{interval[0]:.0%}, {interval[1]:.0%}]"


if __name__ == "__main__":
    run(main)
