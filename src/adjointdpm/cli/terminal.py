"""What the commands do to the terminal and to the process."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from adjointdpm.errors import AdjointDPMWarning
from adjointdpm.runs.provenance import command_line as command_line

console = Console(stderr=True)


def progress_bar(visible: bool = True) -> Progress:
    """A bar with the metric beside it; of several processes only one shows it."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[metric]}", markup=False),
    )
    return Progress(*columns, console=console, disable=not visible)


def show_records(
    progress: Progress, bar: TaskID, iterations: int, sign: int = 1
) -> Callable[[dict[str, Any]], None]:
    """A callback of the optimisation loop that keeps the bar up to date; rewards have sign −1."""

    def show(record: dict[str, Any]) -> None:
        values = record.get("validation") or record["training"]
        words = {"drift": "structure", "misfit": "misfit"}
        held = "".join(f"  {words[key]} {values[key]:.3f}" for key in words if key in values)
        done = record["iteration"] == iterations
        text = f"metric {sign * values['metric']:.3f}{held}" + ("  measuring" if done else "")
        progress.update(bar, completed=record["iteration"], metric=text)

    return show


def note(text: str) -> None:
    """Print what a task has found out, above the bar."""
    say(text)


def say(text: str, style: str = "") -> None:
    """Print on stderr, with what a terminal would obey written out.

    All messages pass here: they may hold prompts, labels, names and values from files of others.
    """
    console.print(printable(text), style=style, markup=False, highlight=False, soft_wrap=True)


def show_progress(progress: Progress) -> Callable[[str, float, int], None]:
    """A callback of a long task: what is going on, how much is done, and about how long it takes.

    Each part of the task gets a bar of its own. The time left is reckoned from the speed since
    the first call, so that what an earlier run had done does not count.
    """
    bar: TaskID | None = None
    began, first, last, size = 0.0, 0.0, 0.0, 0

    def show(what: str, done: float, total: int) -> None:
        nonlocal bar, began, first, last, size
        if bar is None or total != size or done < last:
            if bar is not None:
                progress.update(bar, completed=size, metric="")
                progress.stop_task(bar)
            bar = progress.add_task("audit", total=total, metric="")
            began, first, size = time.time(), done, total
        last = done
        left = time_left(time.time() - began, done - first, total - done)
        progress.update(bar, completed=done, metric=printable(f"{what}{left}"))

    return show


def time_left(seconds: float, done: float, to_do: float) -> str:
    """About how long the rest takes, in words; nothing before the speed is known."""
    if done <= 0 or seconds < 1:
        return ""
    rest = seconds / done * to_do
    if rest >= 5400:
        return f"  about {rest / 3600:.0f} h left"
    return f"  about {rest / 60:.0f} min left" if rest >= 90 else f"  about {rest:.0f} s left"


def in_words(error: BaseException) -> str:
    """An error's message, and what was noted on its way."""
    return "\n".join([str(error), *getattr(error, "__notes__", [])]).rstrip()


def printable(text: str) -> str:
    """A text without what a terminal would obey: control characters are written out."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def tell(text: str) -> None:
    """Print the result."""
    text = printable(text)  # prompts and labels may come from other people's files
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Within the block this library's warnings are a line each, without the place in the code."""
    before = warnings.showwarning

    def show(message: Any, category: Any, *args: Any, **kwargs: Any) -> None:
        if not issubclass(category, AdjointDPMWarning):
            before(message, category, *args, **kwargs)
            return
        say(f"warning: {message}", "yellow")

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def quiet() -> None:
    """Keep other libraries' messages off the terminal, and slow denormal numbers out."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry
    import diffusers
    import torch
    import transformers

    torch.set_flush_denormal(True)
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
