"""What each command reaches with default flags alone, metric by metric.

`python -m benchmarks.defaults --page docs/defaults.md`

Each cell of the table is a command line, run in a process of its own with a time limit. Results are
kept as they come; a run that was stopped goes on where it was. `--grid` runs the references that
the cells are compared with: ten times the iterations, over learning rates and templates.
"""

import hashlib
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from adjointdpm.cli import app
from adjointdpm.errors import UnknownNameError
from adjointdpm.metrics.subject_recognition import recogniser_for
from adjointdpm.support.picture_files import read_picture
from benchmarks.common import (
    Page,
    PageOnly,
    has_results,
    machine,
    publish,
    read_results,
    run,
    tell,
    usable_cores,
    write_results,
)
from benchmarks.defaults.cells import FACTOR, Cell, cells, supply
from benchmarks.defaults.page import page_of
from benchmarks.defaults.verdict import LIMIT, verdict
from benchmarks.user_process import ADJOINTDPM, SOURCE, Finished, run_as_user, stop_all

RESULTS, GRID = "defaults", "defaults-grid"
WORK = Path(__file__).parents[1] / "work" / "defaults"


@dataclass(frozen=True)
class Task:
    """One process to run: a cell, or one run of its grid.

    Args:
        cell: what is learned.
        setting: the flags of the grid's run; None for the cell itself.
        iterations: of the grid's run.

    """

    cell: Cell
    setting: Sequence[str] | None = None
    iterations: int | None = None

    @property
    def name(self) -> str:
        """Its key among the results."""
        return " ".join([self.cell.name, *(self.setting or ())])

    def run(self, folder: Path, limit: float, threads: int) -> dict[str, Any] | None:
        """Run it; None if somebody stopped it."""
        arguments = self.cell.arguments()
        out = arguments[arguments.index("--out") + 1]
        if self.setting is not None:
            place = self.cell.grid().index(list(self.setting))
            arguments[arguments.index("--out") + 1] = out = f"grid-{out}-{place}"
            arguments += [*self.setting, "--iterations", str(self.iterations)]
        former = folder / out
        flags = ["--force"] if former.is_dir() and any(former.iterdir()) else []
        (former / "result.json").unlink(missing_ok=True)
        version = code_version()
        finished = run_as_user([*ADJOINTDPM, *arguments, *flags], folder, limit, threads)
        if finished.interrupted:
            return None
        asked = {} if self.iterations is None else {"asked_iterations": self.iterations}
        kept = {"command": arguments, "limit": limit, "code_version": version} | asked
        return kept | facts_of(finished, former, judge=self.cell.judged_here)


def facts_of(finished: Finished, folder: Path, *, judge: bool = False) -> dict[str, Any]:
    """What is kept of a run: how it ended, and what its `result.json` says.

    Args:
        finished: the process.
        folder: the run's.
        judge: the run had no judge, and it is asked here.

    """
    facts: dict[str, Any] = {
        "code": finished.code,
        "seconds": finished.seconds,
        "cpu_seconds": finished.cpu_seconds,
        "error": finished.why[:300] if finished.code != 0 else "",
    }
    path = folder / "result.json"
    if finished.code != 0 or not path.is_file():
        return facts
    result = json.loads(path.read_text("utf-8"))
    held_out, course = result["held_out"], result["optimisation"]
    facts |= {key: held_out[key] for key in ("before", "after", "change", "interval", "examples")}
    if "since" in held_out:  # what was learned, beyond the existing word that it started from
        facts["beyond_word"] = held_out["since"]["existing_word"]
    if "recognised" in held_out:
        facts["recognised"] = [held_out["recognised"][view] for view in ("before", "after")]
    elif judge:
        facts["recognised"] = judged(folder, result["pictures"])
        if "resembling" in held_out:  # of several prompts
            facts["resembling"] = held_out["resembling"]["after"]
    facts |= {key: course[key] for key in ("iterations", "best_iteration", "stopped")}
    used = ("iterations", "lr", "optimizer", "gradient", "steps", "template", "preservation")
    facts["config"] = {key: result["config"][key] for key in used if key in result["config"]}
    return facts


def judged(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The share of a run's pictures in which the judge finds the subject, before and after."""
    prompts = [row["prompt"] for row in rows]
    recognise = recogniser_for(prompts)
    assert recognise is not None
    shares = []
    for view in ("before", "after"):
        images = torch.stack([read_picture(folder / row[view]) for row in rows])
        shares.append(sum(recognise(images, prompts)) / len(prompts))
    return shares


def code_version() -> str:
    """A hash of the library's source, so that the page can say whether all cells ran the same."""
    found = hashlib.sha256()
    for path in sorted((SOURCE / "adjointdpm").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def commands() -> list[str]:
    """The commands that this version has."""
    return [command.callback.__name__ for command in app.registered_commands if command.callback]


def main(
    only: Annotated[
        list[str] | None,
        typer.Option(help="Cells, as in 'embed/*' or '*/sepia/101'. Repeatable."),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Run the grids of finished cells.")] = False,
    factor: Annotated[int, typer.Option(help="Iterations of a grid's run, times those.")] = FACTOR,
    jobs: Annotated[int, typer.Option(help="Processes that run at once.")] = 1,
    limit: Annotated[
        float | None,
        typer.Option(help="Seconds of one process; for a grid's run 12 times as many."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin nothing new after so many minutes.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also what has a result.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Also what was measured with other code.")
    ] = False,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Run every cell that has no result, and make the page."""
    name = GRID if grid else RESULTS
    chosen = [cell for cell in cells(only or ()) if cell.command in commands()]
    if not chosen:
        raise UnknownNameError(f"--only {only} names no cell of a command that this version has")
    if not page_only:
        kept = _kept(name) | {"machine": machine(), "commands": commands()}
        kept["threads"] = threads = max(1, usable_cores() // jobs)
        version = code_version() if stale else None
        tasks = _grid_tasks(chosen, factor) if grid else [Task(cell) for cell in chosen]
        todo = [task for task in tasks if again or _due(kept["runs"].get(task.name), version)]
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no process is left
        supply(WORK)
        seconds = limit or LIMIT * (12 if grid else 1)
        tell(f"{len(todo)} of {len(tasks)} to run")

        def keep(task: Task, facts: dict[str, Any]) -> None:
            kept["runs"][task.name] = facts
            write_results(name, kept)
            tell(f"{task.name}: {line_on(task, facts)}")

        run_tasks(todo, lambda task: task.run(WORK, seconds, threads), keep, jobs, minutes)
    publish(page_of(_kept(RESULTS), _kept(GRID)), page)


def run_tasks(
    todo: Sequence[Task],
    work: Callable[[Task], dict[str, Any] | None],
    keep: Callable[[Task, dict[str, Any]], None],
    jobs: int,
    minutes: float | None = None,
) -> None:
    """Run tasks in their order, `jobs` at once, and keep what each found as soon as it ends."""
    started, rest = time.monotonic(), list(reversed(todo))
    running: dict[Future[dict[str, Any] | None], Task] = {}
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while running or rest:
                late = minutes is not None and time.monotonic() - started > 60 * minutes
                while rest and not late and len(running) < jobs:
                    task = rest.pop()
                    running[pool.submit(work, task)] = task
                if not running:
                    tell(f"time is up; {len(rest)} are left")
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task, facts = running.pop(future), future.result()
                    if facts is not None:
                        keep(task, facts)
        except BaseException:
            stop_all()
            raise


def line_on(task: Task, facts: Mapping[str, Any]) -> str:
    """What a run found, for the terminal."""
    if "before" not in facts:
        found = "; ".join(verdict(facts, [], 0).reasons)
    else:
        judge = " → ".join(f"{share:.0%}" for share in facts.get("recognised", ()))
        reasons = "" if task.setting else "; ".join(verdict(facts, [], 0).reasons) or "passes"
        found = f"{facts['before']:.3f} → {facts['after']:.3f}, judge {judge or '–'} {reasons}"
    return f"{found} ({facts['seconds']:.0f} s)"


def _kept(name: str) -> dict[str, Any]:
    return read_results(name) if has_results(name) else {"runs": {}}


def _due(facts: Mapping[str, Any] | None, version: str | None) -> bool:
    """Whether there is no result yet; with a version, or one of another."""
    return facts is None or bool(version and facts["code_version"] != version)


def _grid_tasks(chosen: Sequence[Cell], factor: int) -> list[Task]:
    """The runs of the grids of cells that have finished."""
    done = _kept(RESULTS)["runs"]
    return [
        Task(cell, setting, factor * done[cell.name]["config"]["iterations"])
        for cell in chosen
        if "config" in done.get(cell.name, {})
        for setting in cell.grid()
    ]


if __name__ == "__main__":
    run(main)
