"""The tables of docs/defaults.md, from the kept results."""

import shlex
from collections.abc import Mapping
from statistics import median
from typing import Any

from adjointdpm.tasks.guide_config import GuideConfig
from benchmarks.common import table
from benchmarks.defaults.cells import (
    LEAST,
    LIKE_TUNING,
    METRICS,
    OWN_MODEL,
    RATES,
    TASKS,
    TEMPLATES,
    WORDS,
    Cell,
    cells,
)
from benchmarks.defaults.verdict import LEAST_SHARE, MOST_LOST, Verdict, quiet_seconds, verdict

Runs = Mapping[str, Mapping[str, Any]]
_NOISE = GuideConfig(prompt="a cat", metric=["color:mood=dusk"])
_HEAD = [
    "metric",
    "seed",
    "before → after",
    "change [95 %]",
    "of the grid's best",
    "judge",
    "best iteration",
    "seconds",
    "",
]


def page_of(kept: Mapping[str, Any], grid: Mapping[str, Any]) -> str:
    """Everything between the marks."""
    every = cells()
    found = {
        cell: verdict(
            kept["runs"][cell.name],
            _grid_of(cell, grid["runs"]),
            len(cell.grid()),
            LEAST.get(cell.metric, 0.0),
        )
        for cell in every
        if cell.name in kept["runs"]
    }
    if not found:
        return f"None of {len(every)} cells has been run yet."
    parts = [
        _summary(found, kept, len(every)),
        _share_summary(found),
        _grid_summary(found, grid),
        _by_task(found, kept["runs"]),
        _without_judge(kept["runs"]),
        _beyond_words(kept["runs"]),
        *(_of_task(task, found, kept["runs"]) for task in TASKS),
        _failures(found),
        _setting(kept),
    ]
    return "\n\n".join(part for part in parts if part)


def _grid_of(cell: Cell, runs: Runs) -> list[Mapping[str, Any]]:
    names = [" ".join([cell.name, *setting]) for setting in cell.grid()]
    return [runs[name] for name in names if name in runs]


def _summary(found: Mapping[Cell, Verdict], kept: Mapping[str, Any], every: int) -> str:
    passed = sum(result.passed for result in found.values())
    seconds = [quiet_seconds(kept["runs"][cell.name]) for cell in found]
    text = (
        f"**{passed} of {len(found)} cells pass ({passed / len(found):.0%})** all checks that were "
        f"made. A cell takes {median(seconds):.0f} s in the median and {max(seconds):.0f} s at "
        f"most."
    )
    unseen = [result for cell, result in found.items() if cell.metric not in LIKE_TUNING]
    if unseen:
        text += (
            f" Settings were tried on metrics like {', '.join(LIKE_TUNING)}, or their cells led to "
            f"other rules; they are marked *; "
            f"of the other cells {sum(result.passed for result in unseen)} of {len(unseen)} pass."
        )
    missing = every - len(found)
    if missing:
        text += f" {missing} of {every} cells have not been run."
    absent = sorted({c.command for c in cells()} - set(kept["commands"]))
    if absent:
        text += f" This version has no command {', '.join(f'`{name}`' for name in absent)}."
    versions = {kept["runs"][cell.name]["code_version"] for cell in found}
    if len(versions) > 1:
        text += f" The cells were measured with {len(versions)} states of the library."
    noisy = [cell for cell in found if {"noise", "both"} & {*TASKS[cell.task]}]
    limits = [kept["runs"][cell.name].get("config", {}).get("iterations") for cell in noisy]
    former = [limit for limit in limits if limit not in (None, _NOISE.iterations)]
    if former:
        text += (
            f" {len(former)} cells of `guide` where noise moves are of a time when a run made "
            f"{' or '.join(map(str, sorted(set(former))))} iterations at most, and not "
            f"{_NOISE.iterations}."
        )
    return text


def _share_summary(found: Mapping[Cell, Verdict]) -> str:
    known = sum((result.share_of_all or 0.0) >= LEAST_SHARE for result in found.values())
    enough = [result.enough for result in found.values() if result.enough is not None]
    return (
        f"No run can gain more than what leads to the least value that a metric has at all. "
        f"{known} of {len(found)} cells gain at least {LEAST_SHARE:.0%} of that, and so of "
        f"whatever a grid may find. With the grids that were run, the share is known to be large "
        f"enough for {sum(enough)} cells, known to be too small for {len(enough) - sum(enough)}, "
        f"and not known for {len(found) - len(enough)}."
    )


def _grid_summary(found: Mapping[Cell, Verdict], grid: Mapping[str, Any]) -> str:
    whole = [result for result in found.values() if result.complete]
    partly = sum(0 < result.grid_runs < result.grid_size for result in found.values())
    if not whole and not partly:
        return "The reference grid has been run for no cell."
    shares = [result.share for result in found.values() if result.share is not None]
    any_of = [result.share_of_any for result in found.values() if result.share_of_any is not None]
    iterations = sorted(
        {facts["iterations"] for facts in grid["runs"].values() if "before" in facts}
    )
    asked = sorted({facts["asked_iterations"] for facts in grid["runs"].values()})
    return (
        f"The reference grid was run in full for {len(whole)} of {len(found)} cells, in part for "
        f"{partly}. Its "
        f"runs were given {_range(asked)} iterations and made {_range(iterations)}. Of the "
        f"{len(shares)} cells with a run of the grid that keeps the subjects, "
        f"{sum(share >= LEAST_SHARE for share in shares)} gain at least {LEAST_SHARE:.0%} of the "
        f"best of these; of the best of all runs, whatever they lose, "
        f"{sum(share >= LEAST_SHARE for share in any_of)} of {len(any_of)} do."
    )


def _range(numbers: list[int]) -> str:
    if not numbers:
        return "no"
    return f"{numbers[0]}" if len(set(numbers)) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _by_task(found: Mapping[Cell, Verdict], runs: Runs) -> str:
    rows = []
    for task in TASKS:
        mine = {cell: result for cell, result in found.items() if cell.task == task}
        if mine:
            seconds = [quiet_seconds(runs[cell.name]) for cell in mine]
            passed = sum(result.passed for result in mine.values())
            checked = sum(result.grid_runs > 0 for result in mine.values())
            rows.append(
                [
                    f"`{' '.join(TASKS[task])}`",
                    f"{passed} of {len(mine)}",
                    str(checked),
                    f"{median(seconds):.0f}, {max(seconds):.0f}",
                ]
            )
    return table(["task", "passed", "with a grid", "seconds (median, most)"], rows)


def _without_judge(runs: Runs) -> str:
    """What cells without a judge gain, beside the same with one."""
    shares: dict[str, list[float]] = {}
    for cell in cells(["*-own-model/*"]):
        task = cell.task.removesuffix(f"-{OWN_MODEL}")
        pair = [runs.get(name, {}) for name in (cell.name, cell.name.replace(cell.task, task))]
        alone, judged = (facts.get("change", 0.0) for facts in pair)
        alike = len({facts.get("config", {}).get("iterations") for facts in pair}) == 1
        if cell.judged_here and alike and alone and judged < 0:
            shares.setdefault(task, []).append(alone / judged)
    if not shares:
        return ""
    rows = [
        [f"`{' '.join(TASKS[task])}`", str(len(found)), f"{median(found):.0%}", f"{min(found):.0%}"]
        for task, found in shares.items()
    ]
    return (
        "What a cell with `--model own-model` gains, as a share of what the same cell gains with "
        "the judge and as many iterations at most:\n\n"
        + table(["task", "pairs", "median", "least"], rows)
    )


def _beyond_words(runs: Runs) -> str:
    """How much of what `embed` gains is learned, and how much its start word has already."""
    known = [facts for name, facts in runs.items() if "beyond_word" in facts and facts["change"]]
    if not known:
        return ""
    shares = [facts["beyond_word"]["change"] / facts["change"] for facts in known]
    surely = sum(facts["beyond_word"]["interval"][1] < 0 for facts in known)
    return (
        f"`embed` starts at the best of 48 existing words. Of what a token gains, learning adds "
        f"{median(shares):.0%} in the median of {len(known)} cells (from {min(shares):.0%} to "
        f"{max(shares):.0%}); the word alone has the rest. In {surely} of them the token is surely "
        f"better than its word: the 95 % interval of the difference is below 0. Cells measured "
        f"before that was noted are not among them."
    )


def _of_task(task: str, found: Mapping[Cell, Verdict], runs: Runs) -> str:
    order = list(METRICS)
    mine = sorted(
        (cell for cell in found if cell.task == task),
        key=lambda cell: (order.index(cell.metric), cell.seed),
    )
    if not mine:
        return ""
    example = shlex.join(["adjointdpm", *mine[0].arguments()])
    rows = [_row(cell, found[cell], runs[cell.name]) for cell in mine]
    return f"## {' '.join(TASKS[task])}\n\nFor example `{example}`.\n\n{table(_HEAD, rows)}"


def _row(cell: Cell, result: Verdict, facts: Mapping[str, Any]) -> list[str]:
    mark = "passes" if result.passed else "**fails**"
    metric = cell.metric + "*" * (cell.metric in LIKE_TUNING)
    seconds = f"{quiet_seconds(facts):.0f}"
    if "before" not in facts:
        return [metric, str(cell.seed), *["–"] * 5, seconds, mark]
    low, high = facts["interval"]
    interval = f" [{low:+.3f}, {high:+.3f}]" if facts["examples"] > 1 else " (one picture)"
    share = "–" if result.share is None else f"{result.share:.0%}"
    if result.share is None and (result.share_of_all or 0.0) > 0:
        share = f"≥ {result.share_of_all:.0%}"
    if result.grid_runs and not result.complete:
        share += f" ({result.grid_runs} of {result.grid_size} runs)"
    judge = " → ".join(f"{value:.0%}" for value in facts.get("recognised") or ()) or "–"
    if "resembling" in facts:
        judge += f" (alike {facts['resembling']:.0%})"
    return [
        metric,
        str(cell.seed),
        f"{facts['before']:.3f} → {facts['after']:.3f}",
        f"{facts['change']:+.3f}{interval}",
        share,
        judge,
        f"{facts['best_iteration']} of {facts['iterations']}",
        seconds,
        mark,
    ]


def _failures(found: Mapping[Cell, Verdict]) -> str:
    lines = [
        f"- `{cell.name}`: {'; '.join(result.reasons)}"
        for cell, result in found.items()
        if not result.passed
    ]
    return "\n".join(["## What failed, and why", "", *(lines or ["Nothing."])])


def _setting(kept: Mapping[str, Any]) -> str:
    metrics = table(
        ["metric", "flag", "what it asks for"],
        [[name, f"`{flag}`", WORDS[name]] for name, flag in METRICS.items()],
    )
    rates = "; ".join(f"{task} {', '.join(values)}" for task, values in RATES.items())
    templates = ", ".join(f"`{text}`" for text in TEMPLATES)
    return (
        f"## The metrics\n\n{metrics}\n\n## The grid\n\nAdam with the learning rates {rates}; for "
        f"embed each of them with each of the templates {templates}. Everything else is the "
        f"default. The judge's share may fall by {MOST_LOST:.0%} of the pictures, in the grid's "
        f"best run too.\n\nMeasured on {kept['machine']}; {kept['threads']} thread(s) for each "
        f"process."
    )
