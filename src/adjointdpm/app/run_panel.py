"""The part that all tabs with runs have: run, stop, go on, and what is going on."""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from adjointdpm.app.job_queue import DONE, FAILED, RUNNING, STOPPED, WAITING, Job
from adjointdpm.app.markup import note
from adjointdpm.app.run_view import RunView
from adjointdpm.app.session import Session
from adjointdpm.app.worker import ensure_worker
from adjointdpm.errors import AdjointDPMError

#: Makes the outputs of a tab from a run's folder and its job.
Show = Callable[[RunView, Job], Sequence[Any]]
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_LINES = 12  # of what a run has printed


@dataclass
class RunPanel:
    """Buttons, what is going on, and the timer that keeps it up to date.

    Args:
        session: of the page.
        tasks: the commands whose newest run is shown at first.
        label: of the button that starts one.
        resumes: whether a stopped run can go on.
        follows: whether the newest run of these commands is shown before one is started here.
        says: whether what a run has printed is shown.

    """

    session: Session
    tasks: Sequence[str]
    label: str = "Run"
    resumes: bool = True
    follows: bool = True
    says: bool = True

    def __post_init__(self) -> None:
        with gr.Row(elem_classes="adp-buttons"):
            self.run = gr.Button(self.label, variant="primary", size="md", min_width=90)
            self.stop = gr.Button(
                "Stop", variant="stop", size="md", interactive=False, min_width=80
            )
            self.go_on = gr.Button(
                "Go on", size="md", visible=self.resumes, interactive=False, min_width=80
            )
        self.shown, self.seen = gr.State(None), gr.State(None)
        self.timer = gr.Timer(0.5, active=False)

    def place_status(self) -> None:
        """Make what says how the run is going; call it where that shall stand."""
        # Apart, since the status of a run that goes on would soon take the sentence's place.
        self.trouble, self.status = gr.HTML(), gr.HTML()

    def place_details(self) -> None:
        """Make what shows the run's own words and its command line."""
        self.details = gr.HTML()

    def connect(
        self,
        start: Callable[..., Job],
        inputs: Sequence[gr.components.Component],
        outputs: Sequence[Any],
        show: Show,
    ) -> None:
        """Say what the buttons do.

        Args:
            start: puts a run into the queue, from the values of `inputs`.
            inputs: the form.
            outputs: what shows the run.
            show: their values.

        """
        parts = [self.shown, self.seen, self.status, self.details, self.stop, self.go_on, *outputs]

        def begin(*values: Any) -> list[Any]:
            return self._tried(lambda: start(*values), len(outputs))

        def halt(name: str | None) -> list[Any]:
            current = self.current(name)
            if current is not None:
                self.session.queue.stop(current)
            return self._look(name, None, show, len(outputs))

        def resume(name: str | None) -> list[Any]:
            current = str(self.current(name))
            return self._tried(lambda: self.session.resume(current), len(outputs))

        def tick(name: str | None, seen: Any) -> list[Any]:
            return self._look(name, seen, show, len(outputs))

        # The values are checked by `start`. gradio's own checks answer with no sentence, and would
        # open what was dropped as a picture of whatever format.
        self.run.click(begin, list(inputs), [*parts, self.trouble], preprocess=False, **_QUIET)
        self.stop.click(halt, self.shown, parts, **_QUIET)
        self.go_on.click(resume, self.shown, [*parts, self.trouble], **_QUIET)
        for button in (self.run, self.go_on):  # two tabs chosen in haste may both rest
            button.click(lambda: gr.Timer(active=True), None, self.timer, queue=False, **_QUIET)
        self.timer.tick(tick, [self.shown, self.seen], parts, queue=False, **_QUIET)

    def current(self, shown: str | None) -> str | None:
        """The run that is looked at: the one started here, else the newest.

        Only `begin` and `resume` set `shown`. A tick that had begun before a click, and ended
        after it, would put the former run back.
        """
        if shown is not None or not self.follows:
            return shown
        newest = self.session.queue.newest(*self.tasks)
        return None if newest is None else newest.name

    def _tried(self, start: Callable[[], Job], outputs: int) -> list[Any]:
        """Start a run, or say the sentence of the error."""
        try:
            job = start()
        except AdjointDPMError as error:
            return [gr.skip()] * (6 + outputs) + [problem(self.session.brief(str(error)))]
        words = _box(job, "is in the queue")
        return [job.name, None, words] + [gr.skip()] * (3 + outputs) + [""]

    def _look(self, name: str | None, seen: Any, show: Show, outputs: int) -> list[Any]:
        """What has changed since the last look."""
        queue, nothing = self.session.queue, gr.skip()
        current = self.current(name)
        job = None if current is None else queue.find(current)
        if job is None:
            return [nothing] * (6 + outputs)
        if not job.is_over:
            ensure_worker(queue)
        view = RunView(self.session.folder(job.name))
        sight = (job.name, job.state, job.stopping, view.signature())
        words = self._words(view, job)
        if seen is not None and seen[0] == sight:
            status = nothing if seen[1] == words else words
            return [nothing, (sight, words), status] + [nothing] * (3 + outputs)
        buttons = [
            self._details(job),
            gr.Button(interactive=not job.is_over),
            gr.Button(interactive=job.state == STOPPED and self.resumes),
        ]
        return [nothing, (sight, words), words, *buttons, *show(view, job)]

    def _words(self, view: RunView, job: Job) -> str:
        """What is going on, and the error's sentence."""
        words = _box(job, state_of(view, job, self._place(job)))
        return words + (problem(self.session.brief(job.message)) if job.state == FAILED else "")

    def _details(self, job: Job) -> str:
        """What was printed, and the command line."""
        log = printed(self.session.queue.log(job.name).name, self.session)
        shown = self.says and job.state != FAILED
        said = "".join(note(self.session.brief(line)) for line in log) if shown else ""
        command = self.session.brief(shlex.join(["adjointdpm", *job.arguments]))
        return (
            f'{said}<p class="adp-note">The command line that repeats it:</p>'
            f'<pre class="adp-command" tabindex="0">{escape(command)}</pre>'
        )

    def _place(self, job: Job) -> int:
        waiting = [other.name for other in self.session.queue.jobs() if other.state == WAITING]
        return waiting.index(job.name) if job.name in waiting else 0


def _box(job: Job, words: str) -> str:
    return (
        f'<div role="status" class="adp-status adp-{job.state}"><strong>{escape(job.name)}'
        f"</strong> {escape(words)}</div>"
    )


def problem(sentence: str) -> str:
    """An error's sentence."""
    return f'<div role="alert" class="adp-problem">{escape(sentence)}</div>'


def state_of(view: RunView, job: Job, before: int = 0) -> str:
    """What a job is doing, in words."""
    if job.state == WAITING:
        return f"waits for {before + 1} other{'s' if before else ''}" if before else "waits"
    if job.state == RUNNING:
        passed = time.time() - job.started
        ending = "stops after this iteration; " if job.stopping else ""
        return f"{ending}{_progress(view, passed)}"
    if job.state == DONE:
        return f"is done, after {_seconds(job.ended - job.started)}"
    if job.state == STOPPED:
        return "was stopped"
    return "ended with an error"


def printed(name: str, session: Session) -> list[str]:
    """The lines that a run has printed, without bars and paths."""
    try:
        text = (session.queue.folder / name).read_bytes()[-20_000:].decode("utf-8", "replace")
    except OSError:
        return []
    lines = (line.strip() for line in text.splitlines())
    left_out = ("Report: ", "Learned: ", "Replay: ", "Pictures: ", "∂", *"│┃├└┏┡")
    return [line for line in lines if line and "━" not in line and not line.startswith(left_out)][
        -_LINES:
    ]


def _progress(view: RunView, passed: float) -> str:
    """Iterations, network calls, and the time left."""
    total, history = view.config.get("iterations"), view.history
    if not history or "iteration" not in history[-1] or "budget" in history[-1]:
        return f"has begun, {_seconds(passed)} ago"
    done = history[-1]["iteration"]
    if not isinstance(total, int):
        return f"iteration {done}"
    calls = sum(record.get("network_calls", 0) for record in history)
    words = f"iteration {done} of {total}"
    if calls:
        words += f" · {calls} network calls"
    times = [record["seconds"] for record in history if "seconds" in record]
    if done >= total:
        return f"{words} · measuring"
    if times:
        words += f" · at most {_seconds(sum(times) / len(times) * (total - done))} left"
    return words


def _seconds(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
