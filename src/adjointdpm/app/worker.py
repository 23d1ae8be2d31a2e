"""The process that runs the queue's commands, one after the other: `python -m …app.worker RUNS`.

It has loaded what all commands need before the first of them is asked for, and runs each in a fork
of itself. The picture of a small model is there before a new Python would have imported torch.
"""

import fcntl
import importlib
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from adjointdpm.app.job_queue import RUNNING, Job, JobQueue

_WAIT = 0.1  # seconds between two looks at the queue


def ensure_worker(queue: JobQueue) -> None:
    """Start a worker for a queue unless one is at work, or about to be.

    The worker inherits the lock. It is held from now on, and not only when the worker has loaded
    what it needs: until then the page asks many times.
    """
    lock = _locked(queue)
    if lock is None:
        return
    here = str(Path(__file__).parents[2])  # so that the worker is of the same package
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    words = [str(queue.runs), str(os.getpid()), str(lock.fileno())]
    with lock, (queue.folder / "worker.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "adjointdpm.app.worker", *words],
            pass_fds=[lock.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": paths},
            start_new_session=True,  # Ctrl-C in the server's terminal is not for the runs
        )
        (queue.folder / "worker.pid").write_text(str(worker.pid))


#: Runs a command to its end; the lock is the worker's.
Run = Callable[[JobQueue, Job, IO[str]], None]


def end_worker(queue: JobQueue) -> None:
    """End the worker of a queue, and the run that it waits for."""
    for job in queue.jobs():
        queue.stop(job.name)
    lock = _locked(queue)
    if lock is not None:  # there is none, and the number may be another process's now
        lock.close()
        return
    with suppress(OSError, ValueError):
        os.kill(int((queue.folder / "worker.pid").read_text()), signal.SIGTERM)


def work(queue: JobQueue, run: Run, server: int, lock: IO[str]) -> None:
    """Run what waits until the server that started this process is gone and nothing waits.

    A job that a former worker started and that still runs is waited for.

    Args:
        queue: where the jobs are.
        run: runs a command to its end.
        server: the process that started this one.
        lock: held as long as this process works.

    """
    while True:
        _settle(queue)
        job = queue.take()
        if job is not None:
            run(queue, job, lock)
            queue.finish(job.name)
        elif os.getppid() != server and not any(not job.is_over for job in queue.jobs()):
            return
        else:
            time.sleep(_WAIT)


def run_forked(queue: JobQueue, job: Job, lock: IO[str]) -> None:
    """Run a command in a fork of this process, and wait for its end."""
    pid = os.fork()
    if pid == 0:
        lock.close()  # else the run would hold it when its worker is gone
        _become(queue, job.name, job.arguments)
    queue.runs_as(job.name, pid)
    os.waitpid(pid, 0)


def run_anew(queue: JobQueue, job: Job, lock: IO[str]) -> None:
    """Run a command in a new Python: for systems where forks of a threaded process are unsafe."""
    with queue.log(job.name).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "adjointdpm", *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        queue.runs_as(job.name, process.pid)
        queue.exit_code(job.name).write_text(str(process.wait()))


def _become(queue: JobQueue, name: str, arguments: Sequence[str]) -> None:
    """In the fork: be the command, as the command line would run it, and never return."""
    code = 1
    try:
        renew_threads()
        os.setsid()
        out = os.open(queue.log(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for stream in (1, 2):
            os.dup2(out, stream)
        sys.argv = ["adjointdpm", *arguments]
        runpy.run_module("adjointdpm", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        queue.exit_code(name).write_text(str(code))
        os._exit(code)


def renew_threads() -> None:
    """In a fork: let torch make its pool of threads anew, while there is one thread.

    It would be made by the first threads that compute, several at once when weights are loaded, and
    then one of them may find none ("Invalid thread pool!").
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(torch.get_num_threads())


def _settle(queue: JobQueue) -> None:
    """Note the end of jobs whose worker was killed."""
    for job in queue.jobs():
        # One without a process was taken by a worker that died at once.
        if job.state == RUNNING and not job.is_alive:
            queue.finish(job.name)


def _locked(queue: JobQueue) -> IO[str] | None:
    """The worker's lock, or None if a worker holds it."""
    queue.folder.mkdir(parents=True, exist_ok=True)
    lock = (queue.folder / "worker.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _preload() -> None:
    """Import what every command needs, by drawing a picture in one step."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # CUDA must not begin before a fork
    os.environ["HF_HUB_OFFLINE"] = "1"  # the page gets nothing from the network
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads too would be dead in a fork
    import torch

    import adjointdpm.pipelines
    import adjointdpm.runs.report
    import adjointdpm.runs.trackers

    importlib.import_module("adjointdpm.cli")  # by name, since it stands above this package

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a pool of threads would be dead in a fork
    model = adjointdpm.pipelines.load("tiny")
    with torch.no_grad():
        model.generate("a cat", model.noise(1, 0), steps=1)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    forks = sys.platform == "linux"
    if forks:
        _preload()
    runs, parent, descriptor = sys.argv[1:]
    with os.fdopen(int(descriptor), "w") as held:
        work(JobQueue(Path(runs)), run_forked if forks else run_anew, int(parent), held)
