"""What each gradient method gains for a task in a minute: which one tasks should use by default.

`python -m benchmarks.task_gradients --page docs/task-gradients.md`

Each run is a command line with the default of every flag but `--gradient` and the seed, in a
process of its own. Results are kept as they come; a run that was stopped goes on where it was.
"""

import signal
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import typer

from adjointdpm.support.files import write_text
from benchmarks.common import (
    Page,
    PageOnly,
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
from benchmarks.defaults.__main__ import code_version, facts_of
from benchmarks.defaults.cells import prompts
from benchmarks.user_process import ADJOINTDPM, run_as_user

RESULTS = "task-gradients"
WORK = Path(__file__).parent / "work" / "task-gradients"
SEEDS = (31, 32)
_LIMIT = 1200  # seconds of one run
_NOTHING = 0.02  # of the metric's value before: if no method gains as much, nothing is compared
#: Last steps only, a few backward passes spread over all steps, all steps, and the paper's ODE.
METHODS = ("truncated:last=5", "truncated:last=10", "interpolated:vjps=5", "exact", "adjoint")
#: What is learned, and for how many seeds: a picture's result depends on its seed most.
TASKS: Mapping[str, tuple[Sequence[str], Sequence[int]]] = {
    "guide noise": (["guide", "--learn", "noise"], SEEDS),
    "guide embedding": (["guide", "--learn", "embedding"], SEEDS),
    "embed": (["embed", "--token", "<t>"], SEEDS[:1]),
    "align": (["align"], SEEDS[:1]),
}
#: As a user writes them. They are on no other page, and nothing was chosen with them.
METRICS = {
    "night_sky": '''def night_sky(images):
    """Blue above, dark below."""
    upper, lower = images.chunk(2, dim=2)
    return lower.mean((1, 2, 3)) - upper[:, 2].mean((1, 2)) + upper[:, 0].mean((1, 2))
''',
    "stripes": '''def stripes(images):
    """Wide upright stripes: columns differ from those a sixth of the width away."""
    away = images.shape[-1] // 6
    return -(images[..., away:] - images[..., :-away]).mean(2).abs().mean((1, 2))
''',
}


class Case(NamedTuple):
    """One run."""

    task: str
    metric: str
    seed: int
    method: str

    @property
    def name(self) -> str:
        """Its key among the results."""
        return "/".join([self.task, self.metric, str(self.seed), self.method])

    def arguments(self) -> list[str]:
        """The command line after `adjointdpm`."""
        command = TASKS[self.task][0]
        asked = ["--metric", f"metrics.py:{self.metric}", "--gradient", self.method]
        if command[0] == "guide":
            place = 11 * list(METRICS).index(self.metric) + 17 * SEEDS.index(self.seed)
            what = ["--prompt", prompts()[5 + place % 30]]
        else:
            what = ["--prompts", "prompts.txt"]
        out = self.name.replace("/", "-").replace(" ", "-").replace(":", "-")
        return [*command, *what, *asked, "--seed", str(self.seed), "--out", out]


def cases(only: Sequence[str] = ()) -> list[Case]:
    """All runs, or those that one of the patterns names."""
    every = [
        Case(task, metric, seed, method)
        for task, (_, seeds) in TASKS.items()
        for seed, metric, method in product(seeds, METRICS, METHODS)
    ]
    return [c for c in every if not only or any(fnmatch(c.name, pattern) for pattern in only)]


def main(
    only: Annotated[
        list[str] | None, typer.Option(help="Runs, as in 'guide*/exact'. Repeatable.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what has a result.")] = False,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Make every run that has no result, and make the page."""
    kept: dict[str, Any] = read_results(RESULTS) if has_results(RESULTS) else {"runs": {}}
    if not page_only:
        kept |= {"machine": machine()}
        threads = usable_cores()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no process is left
        WORK.mkdir(parents=True, exist_ok=True)
        write_text(WORK / "prompts.txt", "\n".join(prompts()) + "\n")
        write_text(WORK / "metrics.py", "\n\n".join(METRICS.values()))
        for case in cases(only or ()):
            if again or case.name not in kept["runs"]:
                facts = _measured(case, threads)
                if facts is None:
                    break
                kept["runs"][case.name] = facts
                write_results(RESULTS, kept)
                tell(f"{case.name}: {facts.get('before')} → {facts.get('after')} {facts['error']}")
    publish(page_of(kept), page)


def _measured(case: Case, threads: int) -> dict[str, Any] | None:
    """Run it; None if somebody stopped it."""
    arguments = case.arguments()
    folder = WORK / arguments[-1]
    flags = ["--force"] if folder.is_dir() and any(folder.iterdir()) else []
    (folder / "result.json").unlink(missing_ok=True)
    version = code_version()
    finished = run_as_user([*ADJOINTDPM, *arguments, *flags], WORK, _LIMIT, threads)
    if finished.interrupted:
        return None
    return {"command": arguments, "code_version": version} | facts_of(finished, folder)


def page_of(kept: Mapping[str, Any]) -> str:
    """Everything between the marks."""
    runs = {c: kept["runs"][c.name] for c in cases() if c.name in kept["runs"]}
    if not runs:
        return f"None of {len(cases())} runs has been made yet."
    parts = [_of_methods(runs), _of_runs(runs), f"Measured on {kept['machine']}."]
    if len(runs) < len(cases()):
        parts.append(f"{len(cases()) - len(runs)} of {len(cases())} runs have not been made.")
    return "\n\n".join(parts)


def _of_methods(runs: Mapping[Case, Mapping[str, Any]]) -> str:
    """For each task, how much of the largest gain each method has in the median, and its cost."""
    rows = []
    for task, method in product(TASKS, METHODS):
        mine = {c: f for c, f in runs.items() if (c.task, c.method) == (task, method)}
        mine = {c: f for c, f in mine.items() if "change" in f and _share(c, runs) is not None}
        shares = [_share(case, runs) or 0.0 for case in mine]
        if shares:
            minutes = [facts["cpu_seconds"] / 60 for facts in mine.values()]
            gains = [share / m for share, m in zip(shares, minutes, strict=True)]
            rows.append(
                [
                    task,
                    f"`{method}`",
                    f"{median(shares):.0%}",
                    f"{median(minutes):.1f}",
                    f"{median(gains):.0%}",
                    f"{len(shares)}",
                ]
            )
    head = [
        "task",
        "gradient",
        "of the largest gain",
        "processor minutes",
        "a minute",
        "runs",
    ]
    return table(head, rows)


def _share(case: Case, runs: Mapping[Case, Mapping[str, Any]]) -> float | None:
    """A run's gain, as a share of the largest of all methods for the same task, metric and seed.

    None: no method gained anything.
    """
    same = [facts for other, facts in runs.items() if other[:3] == case[:3] and "change" in facts]
    largest = max(-facts["change"] for facts in same)
    nothing = largest <= _NOTHING * max(abs(facts["before"]) for facts in same)
    return None if nothing else -runs[case]["change"] / largest


def _of_runs(runs: Mapping[Case, Mapping[str, Any]]) -> str:
    rows = []
    for case, facts in runs.items():
        judge = " → ".join(f"{share:.0%}" for share in facts.get("recognised") or ()) or "–"
        found = (
            f"{facts['before']:.3f} → {facts['after']:.3f}" if "before" in facts else facts["error"]
        )
        rows.append(
            [
                case.task,
                case.metric,
                str(case.seed),
                f"`{case.method}`",
                found,
                judge,
                f"{facts['cpu_seconds']:.0f}",
            ]
        )
    head = ["task", "metric", "seed", "gradient", "before → after", "judge", "processor seconds"]
    return table(head, rows)


if __name__ == "__main__":
    run(main)
