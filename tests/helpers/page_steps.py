"""What a test does with the page in a browser."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adjointdpm.app.job_queue import JobQueue
from adjointdpm.app.worker import end_worker

#: A button of each tab.
TABS = {
    "Guide": "Run",
    "A word": "Learn the word",
    "Align": "Align",
    "Audit": "Audit",
    "Gradient": "Differentiate",
    "Generate": "Draw",
    "Runs": "Look again",
}


def open_tab(page: Any, name: str) -> None:
    """Choose a tab; on a phone the last ones are in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True).filter(visible=True)
    if tab.count():
        tab.first.click()
    else:
        page.locator(".overflow-menu > button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).first.click()
    button = page.get_by_role("button", name=TABS[name], exact=True)
    button.filter(visible=True).first.wait_for()


def fill(page: Any, **values: object) -> None:
    """Fill fields, named by their labels."""
    panel = page.get_by_role("tabpanel").filter(visible=True)
    for label, value in values.items():
        named = re.compile(rf"^\W*{label.replace('_', ' ')}\b")
        panel.get_by_label(named).first.fill(str(value))


def choose(page: Any, label: str, option: str) -> None:
    """Choose from a menu."""
    panel = page.get_by_role("tabpanel").filter(visible=True)
    panel.get_by_label(label, exact=True).filter(visible=True).first.click()
    page.get_by_role("option", name=option, exact=True).filter(visible=True).click()


def more(page: Any) -> None:
    """Open or close the further settings."""
    page.get_by_role("button", name="More settings").filter(visible=True).first.click()


def start(page: Any, button: str = "Run") -> None:
    """Start a run."""
    page.get_by_role("button", name=button, exact=True).filter(visible=True).first.click()


def run(page: Any, button: str = "Run", place: int = 0) -> None:
    """Start a run, and wait for its end; it must be done."""
    line = page.locator(".adp-status").filter(visible=True)
    former = line.nth(place).inner_text() if line.count() > place else ""
    start(page, button)
    while former and line.nth(place).inner_text() == former:
        page.wait_for_timeout(100)
    text = status(page, "is done", "error", "was stopped", place=place)
    assert "is done" in text, page.locator(".adp-problem").filter(visible=True).all_inner_texts()
    page.wait_for_timeout(1000)


def status(page: Any, *words: str, place: int = 0) -> str:
    """The status line, once it says one of these; of several lines on a tab, one by its place."""
    line = page.locator(".adp-status").filter(visible=True)
    end = time.monotonic() + 120
    text = ""
    while time.monotonic() < end:
        text = line.nth(place).inner_text() if line.count() > place else ""
        if any(word in text for word in words):
            return text
        page.wait_for_timeout(100)
    raise AssertionError(f"none of {words} within 2 minutes, but {text!r}")


@contextmanager
def served_by_command(runs: Path, *words: str) -> Iterator[tuple[str, list[str]]]:
    """`adjointdpm app`, as a user starts it: the URL, and what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "adjointdpm", "app", "--port=0", f"--out={runs}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"page is at (\S+?);", line):
                break
        else:
            raise AssertionError("".join(lines))
        if any("0.0.0.0" in word for word in words):
            lines.append(process.stdout.readline())
        yield found[1], lines
    finally:
        queue = JobQueue(runs.resolve())
        process.terminate()
        process.wait(timeout=30)
        end_worker(queue)
