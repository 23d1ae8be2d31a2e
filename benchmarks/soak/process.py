"""A command in a process of its own, which may be killed.

It is a copy of this process, which has imported the libraries: a new interpreter would spend most
of its time on that. The generators of Python and torch are seeded anew, as in a new process.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """How a process ended.

    Args:
        code: its exit code, negative for a signal.
        seconds: after which it ended.
        said: the end of what it wrote.

    """

    code: int
    seconds: float
    said: str


def run_command(
    command: Sequence[str], folder: Path, *, kill_after: float | None = None, limit: float = 600
) -> Ended:
    """Run a command of adjointdpm in a folder.

    Args:
        command: its words.
        folder: the working directory.
        kill_after: seconds until SIGKILL; None lets it end.
        limit: seconds until a command that was to end is given up.

    """
    context = multiprocessing.get_context("fork")
    output = folder / "output.txt"
    process = context.Process(target=_command, args=([*command], folder, output))
    began = time.perf_counter()
    process.start()
    process.join(limit if kill_after is None else kill_after)
    if process.exitcode is None:
        process.kill()
        process.join()
    said = output.read_text("utf-8", "replace")[-2000:] if output.exists() else ""
    code = process.exitcode
    return Ended(-signal.SIGKILL if code is None else code, time.perf_counter() - began, said)


def _command(command: list[str], folder: Path, output: Path) -> None:
    os.chdir(folder)
    with output.open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    import torch

    from adjointdpm import cli

    random.seed()
    torch.seed()
    torch.set_num_threads(1)
    sys.argv = ["adjointdpm", *command]
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
