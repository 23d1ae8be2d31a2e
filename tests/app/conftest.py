"""A served page, and a browser that looks at it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Any]]:
    """The URL of a page, its folder of runs, and its queue."""
    pytest.importorskip("gradio")
    from adjointdpm.app.job_queue import JobQueue
    from adjointdpm.app.server import Address, open_page
    from adjointdpm.app.session import Session

    runs = tmp_path_factory.mktemp("runs")
    metric = runs / "raises.py"
    metric.write_text('def score(images):\n    raise RuntimeError("the scale is broken")\n')
    queue = JobQueue(runs)
    session = Session(queue, metrics=[f"{metric}:score"])
    page, url, password = open_page(session, Address(port=0))
    assert password is None
    yield url, runs, queue
    for job in queue.jobs():
        queue.stop(job.name)
    page.close()
    from adjointdpm.app.worker import end_worker

    end_worker(queue)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    api = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of the browsers {', '.join(BROWSERS)} is installed")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, served: tuple[str, Path, Any]) -> Iterator[Any]:
    """The page, open; a message on its console or a request to elsewhere fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened, wrong = context.new_page(), []
    opened.set_default_timeout(45_000)
    opened.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request",
        lambda r: None if r.url.startswith((served[0], "data:", "blob:")) else wrong.append(r.url),
    )
    opened.goto(served[0])
    opened.get_by_role("button", name="Run", exact=True).wait_for()
    yield opened
    context.close()
    assert wrong == []
