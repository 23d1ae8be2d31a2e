"""Pictures of the playground for the documentation: `python -m benchmarks.screenshots`.

It serves the page in a folder that is deleted afterwards, runs a few small commands on the bundled
model, and looks at the tabs that the documentation shows. `--every --out FOLDER` looks at all of
them, wide and narrow, light and dark.
"""

import argparse
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from adjointdpm.app.job_queue import JobQueue
from adjointdpm.app.server import Address, check_runs, open_page
from adjointdpm.app.session import Session
from adjointdpm.app.worker import end_worker

OUT = Path("docs/images")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_WIDE: Any = {"width": 1280, "height": 800}
_NARROW: Any = {"width": 390, "height": 844}
_SHOWN = ["Guide", "Gradient"]  # by the README and the guide
_LONGEST = 240  # seconds that a run may take
_COLOURS = 128  # of a picture: pages have few


@contextmanager
def _served() -> Iterator[tuple[str, JobQueue]]:
    # In its own folder, so that the pictures name the runs as everybody's page does.
    here, folder = Path.cwd(), Path(tempfile.mkdtemp(prefix="adjointdpm-screenshots-"))
    os.chdir(folder)
    queue = JobQueue(check_runs(Path("runs/app")))
    page, url, _ = open_page(Session(queue), Address(port=0))
    try:
        yield url, queue
    finally:
        end_worker(queue)
        page.close()
        os.chdir(here)
        shutil.rmtree(folder, ignore_errors=True)


def browser_path() -> str:
    """Where a Chromium is installed."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"none of {', '.join(BROWSERS)} is installed")
    return found


def _fill(page: Any, **values: object) -> None:
    panel = page.get_by_role("tabpanel").filter(visible=True)
    for label, value in values.items():
        named = re.compile(rf"^\W*{label.replace('_', ' ')}\b")
        panel.get_by_label(named).first.fill(str(value))


def _more(page: Any) -> None:
    page.get_by_role("button", name="More settings").filter(visible=True).first.click()


def _run(page: Any, button: str) -> None:
    page.get_by_role("button", name=button, exact=True).filter(visible=True).first.click()
    end = time.monotonic() + _LONGEST
    page.wait_for_timeout(1500)
    while time.monotonic() < end:
        line = page.locator(".adp-status").filter(visible=True).first
        words = line.inner_text() if line.count() else ""
        if "is done" in words:
            page.wait_for_timeout(1500)
            return
        if "error" in words or "stopped" in words:
            raise RuntimeError(page.locator(".adp-problem").filter(visible=True).all_inner_texts())
        page.wait_for_timeout(300)
    raise RuntimeError(f"{button} took more than {_LONGEST} s")


def _guide(page: Any) -> None:
    _fill(page, Prompt="a noto emoji of a cat", Steps=4)
    _more(page)
    _fill(page, Iterations=6, Lr=0.3)
    _more(page)
    _run(page, "Run")


def _word(page: Any) -> None:
    _fill(page, Iterations=4, Steps=5)
    _more(page)
    _fill(page, Initial="purple", Template="{token} {prompt}", Lr=0.1, Validation=4)
    _more(page)
    _run(page, "Learn the word")


def _align(page: Any) -> None:
    _fill(page, Iterations=4, Steps=5)
    _more(page)
    _fill(page, Batch=1, Strength=1, Strength_pictures=4, Validation=4, Held_out_seeds=2)
    _more(page)
    _run(page, "Align")


def _audit(page: Any) -> None:
    _fill(page, Budgets="0.3 0.6", Clean_seeds=2, Iterations=4)
    _more(page)
    _fill(page, Steps=8)
    _more(page)
    _run(page, "Audit")


def _gradient(page: Any) -> None:
    _run(page, "Differentiate")


def _generate(page: Any) -> None:
    _run(page, "Draw")


def _runs(page: Any) -> None:
    page.get_by_label("Run", exact=True).filter(visible=True).first.click()
    page.get_by_role("option").first.click()
    page.wait_for_timeout(1000)


TABS: dict[str, Callable[[Any], None]] = {
    "Guide": _guide,
    "A word": _word,
    "Align": _align,
    "Audit": _audit,
    "Gradient": _gradient,
    "Generate": _generate,
    "Runs": _runs,
}


def _open_tab(page: Any, name: str) -> None:
    tab = page.get_by_role("tab", name=name, exact=True).filter(visible=True)
    if tab.count():
        tab.first.click()
    else:  # on a phone the last ones are in a menu
        page.locator(".overflow-menu > button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).first.click()
    page.wait_for_timeout(2500)


def _save(page: Any, path: Path, full: bool = False) -> None:
    page.evaluate("window.scrollTo(0, 0)")
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    image = Image.open(BytesIO(page.screenshot(full_page=full))).convert("RGB")
    image.quantize(_COLOURS).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tabs", nargs="*", default=_SHOWN, choices=list(TABS))
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--every", action="store_true", help="every tab, wide, dark and narrow; name a folder too"
    )
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    tabs = list(TABS) if given.every else given.tabs
    found, given.out = browser_path(), given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    with _served() as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport=_WIDE)
        page.set_default_timeout(120_000)
        page.goto(url)
        page.get_by_role("button", name="Run", exact=True).wait_for()
        for name in tabs:
            _open_tab(page, name)
            TABS[name](page)
            _save(
                page, given.out / f"app-{name.lower().replace(' ', '-')}.png", full=name != "Guide"
            )
        looks: list[tuple[str, Any, Any]]
        looks = [("dark", _WIDE, "dark"), ("phone", _NARROW, "light")]
        for kind, size, scheme in looks if given.every else ():
            other = browser.new_context(viewport=size, color_scheme=scheme).new_page()
            other.goto(url)
            other.locator(".adp-status").first.wait_for()
            other.wait_for_timeout(2500)
            for name in tabs:
                _open_tab(other, name)
                _save(other, given.out / f"app-{name.lower().replace(' ', '-')}-{kind}.png", True)
        browser.close()


if __name__ == "__main__":
    main()
