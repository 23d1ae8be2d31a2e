"""Every pipeline class that diffusers exports, against full backpropagation of its own call.

`python -m benchmarks.pipelines --page docs/pipelines.md`

Each class is built from tiny parts with random weights and runs in a process of its own, with a
time limit. Results are kept as they come; a run that was stopped goes on where it was.
"""

import multiprocessing
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import diffusers
import torch
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
from benchmarks.pipelines.check import Finding, check
from benchmarks.pipelines.page import page_of

RESULTS = "pipelines"


def main(
    classes: Annotated[
        list[str] | None, typer.Argument(help="Classes; without any, all that have no result.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Run all, also those with results.")
    ] = False,
    seconds: Annotated[int, typer.Option(help="Time limit of one class.")] = 120,
    jobs: Annotated[int, typer.Option(help="Classes that run at once.")] = 2,
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Compare every class with full backpropagation of its own call, and make the page."""
    families = exported()
    check_known("class", classes or [], families)
    kept: dict[str, Any] = read_results(RESULTS) if has_results(RESULTS) else {"classes": {}}
    if not page_only:
        todo = classes or [name for name in families if again or name not in kept["classes"]]
        kept["machine"] = machine()
        torch.set_num_threads(1)  # for each of the processes
        with ThreadPoolExecutor(jobs) as pool:
            found = pool.map(lambda name: _in_a_process(name, families[name], seconds), todo)
            for number, finding in enumerate(found, 1):
                kept["classes"][finding["name"]] = finding
                write_results(RESULTS, kept)
                status = f"{finding['name']}: {finding['status']} {finding['why']}"
                tell(f"{number}/{len(todo)} {status}")
    publish(page_of(kept), page)


def exported() -> dict[str, str]:
    """The pipeline classes that diffusers exports, and the package that each is in."""
    found = {}
    for name in sorted(dir(diffusers)):
        cls = getattr(diffusers, name, None) if "Pipeline" in name else None
        if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
            continue
        if any("__call__" in vars(base) for base in cls.__mro__[:-1]):
            found[name] = _family(cls)
    return found


def _family(cls: type) -> str:
    parts = cls.__module__.split(".")
    start = parts.index("pipelines") + 1 if "pipelines" in parts else 1
    return next((p for p in parts[start:] if p not in ("deprecated",)), parts[-1])


def _in_a_process(name: str, family: str, seconds: int) -> dict[str, Any]:
    """What `check` finds, or that it took too long or took its process with it."""
    context = multiprocessing.get_context("fork")  # a new interpreter would import for 10 s
    results = context.Queue()
    process = context.Process(target=_put, args=(results, name, family))
    process.start()
    try:
        return results.get(timeout=seconds)
    except queue.Empty:
        why = f"no result within {seconds} s"
        return vars(Finding(name, family, why=why))
    finally:
        process.kill()
        process.join()


def _put(results: Any, name: str, family: str) -> None:
    results.put(check(name, family))


if __name__ == "__main__":
    run(main)
