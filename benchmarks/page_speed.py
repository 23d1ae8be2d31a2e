"""How soon the playground shows a picture: `python -m benchmarks.page_speed`.

It starts `adjointdpm app` as a user does, opens it in Chromium, and clicks on Run with the form as
it is but for the iterations. Wall times are what a user waits; processor times of the page and its
worker say how much of that is work, whatever else the machine does.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import psutil
import typer

from adjointdpm.app.job_queue import JobQueue
from adjointdpm.app.worker import end_worker
from benchmarks.common import (
    Page,
    PageOnly,
    machine,
    publish,
    read_results,
    run,
    table,
    tell,
    write_results,
)
from benchmarks.screenshots import browser_path

_NAME = "page-speed"
#: Notes when a picture appears or changes, so that nothing between two looks is missed.
_WATCH = """() => {
  window.watcher?.disconnect();
  window.seen = []; window.clicked = null;
  document.addEventListener('click', () => { window.clicked ??= performance.now(); }, true);
  const shown = () => [...(document.querySelector('.adp-pair')?.querySelectorAll('img')
    || [])].map(e => e.src).join();
  let last = shown();
  const look = () => {
    const now = shown();
    if (now && now !== last) { last = now; window.seen.push(performance.now()); }
  };
  window.watcher = new MutationObserver(look);
  window.watcher.observe(document.body, {subtree: true, childList: true});
}"""


@contextmanager
def _started(runs: Path) -> Iterator[tuple[str, psutil.Process]]:
    command = [sys.executable, "-u", "-m", "adjointdpm", "app", "--port=0", f"--out={runs}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"page is at (\S+?);", line):
                    yield found[1], psutil.Process(process.pid)
                    break
        finally:
            process.terminate()
            end_worker(JobQueue(runs.resolve()))


def measure(browser: Any, iterations: int) -> dict[str, Any]:
    """One start of the page, and two runs: the first at once, the second with all loaded."""
    with tempfile.TemporaryDirectory() as folder:
        runs, began = Path(folder) / "runs", time.perf_counter()
        with _started(runs) as (url, process):
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            page.set_default_timeout(120_000)
            page.goto(url)
            page.get_by_role("button", name="Run", exact=True).wait_for()
            found: dict[str, Any] = {
                "usable": time.perf_counter() - began,
                "usable_processor": _processor_time(process),
            }
            page.get_by_role("button", name="More settings").filter(visible=True).first.click()
            page.get_by_label("Iterations").first.fill(str(iterations))
            found["first"] = _timed_run(page, runs, process)
            page.get_by_label("Seed", exact=True).filter(visible=True).first.fill("1")
            found["second"] = _timed_run(page, runs, process)
            page.context.close()
    return found


def _timed_run(page: Any, runs: Path, process: psutil.Process) -> dict[str, Any]:
    """From the click on Run: seconds to the first picture, and how often they changed."""
    page.evaluate(_WATCH)
    before, former = _processor_time(process), JobQueue(runs).newest("guide")
    page.get_by_role("button", name="Run", exact=True).click()
    page.wait_for_function("window.seen.length > 0")
    spent = _processor_time(process) - before
    while True:
        job = JobQueue(runs).newest("guide")
        if job is not None and job.is_over and (former is None or job.name != former.name):
            break
        page.wait_for_timeout(200)
    page.wait_for_timeout(2000)
    if job.state != "done":
        raise RuntimeError(job.message)
    history = map(json.loads, (runs / job.name / "history.jsonl").read_text().splitlines())
    seconds = [record["seconds"] for record in history if "seconds" in record]
    clicked, seen = page.evaluate("[window.clicked, window.seen]")
    return {
        "first_picture": (seen[0] - clicked) / 1000,
        "first_picture_processor": spent,
        "iterations": len(seconds),
        "seconds_of_an_iteration": median(seconds),
        "pictures_shown": len(seen),
    }


def _processor_time(process: psutil.Process) -> float:
    """Of the page and all that it has started, the browser not among them."""
    total = 0.0
    for part in (process, *process.children(recursive=True)):
        try:
            times = part.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def main(
    page: Page = None,
    page_only: PageOnly = False,
    repeats: Annotated[int, typer.Option(min=1, help="Starts of the page.")] = 3,
    iterations: Annotated[int, typer.Option(min=2, help="Of each guided run.")] = 4,
) -> None:
    """Measure how soon the page and its first picture are there, and keep the figures."""
    if not page_only:
        from playwright.sync_api import sync_playwright

        starts = []
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=browser_path(), args=["--no-sandbox"]
            )
            for number in range(repeats):
                load = os.getloadavg()[0]
                starts.append(measure(browser, iterations) | {"load": load})
                tell(f"start {number + 1}: {json.dumps(starts[-1])}")
            browser.close()
        write_results(_NAME, {"machine": machine(), "starts": starts})
    publish(page_text(read_results(_NAME)), page)


def page_text(content: dict[str, Any]) -> str:
    """The table: each start, its two runs, and what the machine did beside them."""
    rows = []
    for start in content["starts"]:
        rows += [
            [
                f"{start['usable']:.1f} ({start['usable_processor']:.1f})" if name else "",
                ("at once", "with all loaded")[not name],
                f"{found['first_picture']:.1f} ({found['first_picture_processor']:.1f})",
                f"{found['pictures_shown']}, {found['iterations'] + 1}",
                f"{found['seconds_of_an_iteration']:.2f}",
                f"{start['load']:.1f}" if name else "",
            ]
            for name, found in ((True, start["first"]), (False, start["second"]))
        ]
    head = [
        "page usable, s",
        "Run is clicked",
        "first picture, s",
        "changes seen, states",
        "iteration, s",
        "load before",
    ]
    return (
        f"Measured with `python -m benchmarks.page_speed` on {content['machine']}: seconds from "
        "the start of `adjointdpm app` until its form can be used in Chromium, and from the click "
        "on *Run* to the first picture, with the form as it is but for the iterations; in "
        "parentheses, processor seconds of the page and its worker. Changes are those of the "
        "pictures on the page, which come at least with every state. Load is what other work did "
        "on the machine in the minute before.\n\n" + table(head, rows)
    )


if __name__ == "__main__":
    run(main)
