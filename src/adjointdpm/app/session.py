"""What all tabs of the page share."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adjointdpm.app.job_queue import Job, JobQueue
from adjointdpm.app.offers import Offers
from adjointdpm.app.security import new_name, run_folder
from adjointdpm.app.worker import ensure_worker
from adjointdpm.errors import InvalidInputError
from adjointdpm.support.files import write_text


@dataclass(frozen=True)
class Session:
    """The queue, the model, and what was named on the command line.

    Args:
        queue: of the runs folder.
        model: words of the command line that say which model the runs load.
        offers: what works with it.
        metrics: the user's own.
        victims: the user's own.

    """

    queue: JobQueue
    model: Sequence[str] = ()
    offers: Offers = field(default_factory=Offers)
    metrics: Sequence[str] = ()
    victims: Sequence[str] = ()

    @property
    def runs(self) -> Path:
        """The folder of the run folders."""
        return self.queue.runs

    @property
    def uploads(self) -> Path:
        """Where pictures that were dropped into the page are kept."""
        return self.queue.folder / "uploads"

    def folder(self, name: str) -> Path:
        """The folder of a run."""
        return run_folder(self.runs, name)

    def brief(self, text: str) -> str:
        """A text with the runs folder named as it is reached from where the page was started."""
        here = os.path.relpath(self.runs)
        return text if here.startswith(os.pardir) else text.replace(str(self.runs), here)

    def start(self, task: str, title: str, words: Sequence[str], texts: Sequence[str] = ()) -> Job:
        """Put a command into the queue; its folder is named by the task and the title.

        Args:
            task: the command.
            title: what it is about.
            words: its flags.
            texts: its arguments that are no flags, whatever they begin with.

        """
        name = new_name(self.runs, task, title)
        while self.queue.find(name) is not None:  # it waits, and has no folder yet
            name = f"{name}-{int(time.time()) % 10_000}"
        out = [f"--out={self.runs / name}"]
        last = ["--", *texts] if texts else []
        return self._add(name, [task, *words, *self.model, *out, *last])

    def resume(self, name: str) -> Job:
        """Go on with a run that was stopped; from its start if nothing of it was saved."""
        former = self.queue.find(name)
        if former is None:
            raise InvalidInputError(f"run {name!r} was not started by this page")
        kept = [word for word in former.arguments if word not in ("--resume", "--force")]
        begun = any((self.folder(name) / "checkpoint").glob("*"))
        return self._add(name, [*kept, "--resume" if begun else "--force"])

    def prompt_file(self, prompts: Sequence[str], title: str) -> Path:
        """Write prompts to a file, as the command line takes them."""
        name = new_name(self.queue.folder / "prompts", "prompts", title)
        text = "".join(f"{prompt}\n" for prompt in prompts)
        return write_text(self.queue.folder / "prompts" / name, text)

    def _add(self, name: str, arguments: Sequence[str]) -> Job:
        job = self.queue.add(name, arguments)
        ensure_worker(self.queue)
        return job
