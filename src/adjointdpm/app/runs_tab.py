"""The tab of all runs: the queue, old runs and their reports."""

import json
import time
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from adjointdpm.app.job_queue import RUNNING, WAITING
from adjointdpm.app.markup import note, table
from adjointdpm.app.run_panel import problem
from adjointdpm.app.run_view import RunView
from adjointdpm.app.session import Session
from adjointdpm.errors import AdjointDPMError

_LARGEST_REPORT = 60_000_000  # bytes
_MOST = 100  # runs in the list
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def build(session: Session) -> list[gr.Timer]:
    """Make the tab; return its timers."""
    waiting = gr.HTML()
    with gr.Row():
        name = gr.Dropdown([], label="Run", info="Which one to look at.", allow_custom_value=False)
        refresh = gr.Button("Look again", size="md", min_width=130, scale=0)
        stop = gr.Button("Stop it", variant="stop", size="md", min_width=130, scale=0)
    facts, report = gr.HTML(), gr.HTML()
    timer = gr.Timer(1.0, active=False)

    def listed() -> Any:
        return gr.update(choices=names(session))

    def shown(name: str | None) -> list[str]:
        if not name:
            return ["", ""]
        try:
            return _shown(session, name)
        except AdjointDPMError as error:
            return [problem(session.brief(str(error))), ""]

    def halt(name: str | None) -> str:
        if name:
            session.queue.stop(name)
        return queue_table(session)

    # The list is checked against the folder and not against what this page was told of it.
    name.preprocess = lambda payload: None if payload is None else str(payload)
    refresh.click(listed, None, name, **_QUIET)
    name.change(shown, name, [facts, report], **_QUIET)
    stop.click(halt, name, waiting, **_QUIET)
    name.focus(listed, None, name, **_QUIET)
    timer.tick(lambda: queue_table(session), None, waiting, queue=False, **_QUIET)
    return [timer]


def names(session: Session) -> list[tuple[str, str]]:
    """The runs, the newest first: words and name."""
    folders = [
        path
        for path in session.runs.iterdir()
        if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
    ]
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [(f"{path.name} ({_kind(path)})", path.name) for path in folders[:_MOST]]


def queue_table(session: Session) -> str:
    """What runs and what waits."""
    jobs = [job for job in session.queue.jobs() if job.state in (RUNNING, WAITING)]
    if not jobs:
        return note("Nothing runs, and nothing waits.")
    rows = [(escape(job.name), job.state + (" (stopping)" if job.stopping else "")) for job in jobs]
    return table(("run", "state"), rows, "Queue")


def _kind(path: Path) -> str:
    if (path / "result.json").is_file():
        return "finished"
    return "not finished" if (path / "config.yaml").is_file() else "pictures"


def _shown(session: Session, name: str) -> list[str]:
    """The facts of a run, and its report in a frame that runs no script."""
    folder = session.folder(name)
    view, job = RunView(folder), session.queue.find(name)
    result = view.result
    rows = [("folder", escape(session.brief(str(folder))))]
    if folder.is_dir():
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.stat().st_mtime))
        rows.append(("changed", made))
    if "metric" in result:
        sign = int(result["metric"].get("sign", 1))
        words = f"{sign * result['metric']['before']:.4g} → {sign * result['metric']['after']:.4g}"
        rows.append((escape(str(result["metric"]["name"])), words))
    command = result.get("command") or ("" if job is None else " ".join(job.arguments))
    if command:
        rows.append(("command line", f"<code>{escape(session.brief(command))}</code>"))
    if view.config:
        text = session.brief(json.dumps(view.config, indent=1, default=str, ensure_ascii=False))
        rows.append(
            ("settings", f"<details><summary>show</summary><pre>{escape(text)}</pre></details>")
        )
    facts = table(("", ""), rows, name)
    path = view.file("report.html")
    if path is None or path.stat().st_size > _LARGEST_REPORT:
        return [facts, note("It has no report: only a finished run of a task has one.")]
    html = escape(session.brief(path.read_text(encoding="utf-8")))
    frame = f'<iframe class="adp-report" title="Report of {escape(name)}" sandbox srcdoc="{html}">'
    return [facts, f"{frame}</iframe>"]
