"""Every task, killed at random moments and resumed, against a run that nobody killed.

`python -m benchmarks.soak --page docs/interruption.md`

Results are kept as they come; a soak that was stopped goes on where it was.
"""

import datetime
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer

from benchmarks.common import (
    Page,
    PageOnly,
    check_known,
    has_results,
    machine,
    publish,
    read_results,
    run,
    tell,
    write_results,
)
from benchmarks.soak.commands import COMMANDS
from benchmarks.soak.page import page_of
from benchmarks.soak.series import Series, killed_run, reference

RESULTS = "soak"


def main(
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks; without any, all.")] = None,
    kills: Annotated[int, typer.Option(min=1, help="Kills of all tasks together.")] = 100,
    a_run: Annotated[int, typer.Option(min=1, help="Kills of one run at most.")] = 6,
    jobs: Annotated[int, typer.Option(min=1, help="Tasks that run at once.")] = 2,
    again: Annotated[bool, typer.Option("--again", help="Forget what is kept.")] = False,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Kill and resume runs, compare them, and make the page."""
    check_known("task", tasks or [], COMMANDS)
    chosen = tasks or [*COMMANDS]
    new = again or not has_results(RESULTS)
    kept: dict[str, Any] = {"seconds": {}, "series": []} if new else read_results(RESULTS)
    if not page_only:
        _import_everything()
        kept |= {"machine": machine(), "date": datetime.datetime.now().date().isoformat()}
        with ThreadPoolExecutor(jobs) as pool:
            wanted = -(-kills // len(chosen))
            list(pool.map(lambda task: _soak(task, kept, wanted, a_run), chosen))
    publish(page_of(kept), page)
    if any(one["end"] != "same" for one in kept["series"]):
        sys.exit(1)


def _soak(task: str, kept: dict[str, Any], wanted: int, a_run: int) -> None:
    """Kill runs of a task until so many processes were killed."""
    if _kills(task, kept) >= wanted:
        return
    expected = reference(task)
    kept["seconds"][task] = expected.seconds
    if not any(one["task"] == task and not one["kills"] for one in kept["series"]):
        _note(killed_run(task, -1, expected, 0), kept, wanted)
    while (missing := wanted - _kills(task, kept)) > 0:
        seed = sum(one["task"] == task for one in kept["series"])
        series = killed_run(task, seed, expected, min(a_run, missing))
        _note(series, kept, wanted)
        if series.end == "failed":  # the next would fail too
            return


def _note(series: Series, kept: dict[str, Any], wanted: int) -> None:
    kept["series"].append(series.as_json())
    write_results(RESULTS, kept)
    done = f"{_kills(series.task, kept)} of {wanted} kills"
    tell(f"{series.task}: {done}; {series.end} {series.why}")


def _kills(task: str, kept: dict[str, Any]) -> int:
    return sum(len(one["kills"]) for one in kept["series"] if one["task"] == task)


def _import_everything() -> None:
    """What commands import, so that their copies of this process need not."""
    import adjointdpm.runs.report
    import adjointdpm.tasks.audit.task
    from adjointdpm.cli.terminal import quiet

    assert adjointdpm.runs.report is not None
    quiet()


if __name__ == "__main__":
    run(main)
