"""The queue's file, and the worker that runs its jobs, without a page."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adjointdpm.app.job_queue import (
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    WAITING,
    JobQueue,
    birth_of,
    last_words,
)
from adjointdpm.app.worker import end_worker, ensure_worker
from adjointdpm.errors import InvalidInputError

SLEEPER = (
    "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    raise SystemExit(130)"
)


@pytest.fixture
def queue(tmp_path: Path) -> JobQueue:
    return JobQueue(tmp_path)


def test_one_job_runs_at_a_time_in_the_order_of_asking(queue):
    queue.add("a", ["guide", "--prompt=x"])
    queue.add("b", ["embed"])
    first = queue.take()
    assert first is not None
    assert (first.name, first.state) == ("a", RUNNING)
    assert queue.take() is None  # while a runs, b waits
    queue.exit_code("a").write_text("0")
    queue.finish("a")
    second = queue.take()
    assert second is not None
    assert second.name == "b"
    assert [job.state for job in queue.jobs()] == [DONE, RUNNING]


@pytest.mark.parametrize(("code", "state"), [("0", DONE), ("2", FAILED), ("130", STOPPED)])
def test_the_exit_code_says_how_a_job_has_ended(queue, code, state):
    queue.add("a", ["guide"])
    queue.take()
    queue.exit_code("a").write_text(code)
    queue.finish("a")
    assert queue.jobs()[0].state == state


def test_a_job_whose_process_was_killed_has_failed_and_says_so(queue):
    queue.add("a", ["guide"])
    queue.take()
    queue.finish("a")  # nothing wrote its exit code
    (job,) = queue.jobs()
    assert job.state == FAILED
    assert "killed" in job.message


def test_the_message_is_the_errors_whole_sentence(queue):
    queue.folder.mkdir()
    log = queue.log("a")
    log.write_text("warning: slow\nerror: the metric failed\nWhat was done is saved in x.\n")
    assert last_words(log) == "the metric failed\nWhat was done is saved in x."
    log.write_text("some output\nlast line\n")
    assert last_words(log) == "last line"


def test_a_waiting_job_is_taken_out_and_never_runs(queue):
    queue.add("a", ["guide"])
    queue.stop("a")
    assert queue.jobs()[0].state == STOPPED
    assert queue.take() is None


def test_a_running_job_is_interrupted_as_by_control_c(queue):
    queue.add("a", ["guide"])
    queue.take()
    process = subprocess.Popen([sys.executable, "-c", SLEEPER])
    time.sleep(0.5)
    queue.runs_as("a", process.pid)
    queue.stop("a")
    assert process.wait(timeout=20) == 130
    assert queue.jobs()[0].stopping


def test_a_stop_that_came_before_the_process_reaches_it(queue):
    queue.add("a", ["guide"])
    queue.take()
    queue.stop("a")
    process = subprocess.Popen([sys.executable, "-c", SLEEPER])
    time.sleep(0.5)
    queue.runs_as("a", process.pid)
    assert process.wait(timeout=20) == 130


def test_a_stop_never_reaches_another_process_with_a_number_that_is_used_again(queue):
    queue.add("a", ["guide"])
    queue.take()
    process = subprocess.Popen([sys.executable, "-c", SLEEPER])
    queue.runs_as("a", process.pid)
    path = queue.folder / "queue.json"
    jobs = json.loads(path.read_text())
    jobs[0]["born"] -= 1000  # as if the number had belonged to an older process
    path.write_text(json.dumps(jobs))
    queue.stop("a")
    time.sleep(0.5)
    assert process.poll() is None
    process.kill()
    process.wait()


def test_a_name_cannot_wait_twice(queue):
    queue.add("a", ["guide"])
    with pytest.raises(InvalidInputError, match="already"):
        queue.add("a", ["guide"])


def test_a_broken_file_is_an_empty_queue(queue):
    queue.add("a", ["guide"])
    (queue.folder / "queue.json").write_text('[{"name": 3')
    assert queue.jobs() == []
    queue.add("b", ["guide"])
    assert [job.name for job in queue.jobs()] == ["b"]


def test_the_newest_job_is_the_one_that_is_still_going_on(queue):
    for name in ("a", "b"):
        queue.add(name, ["guide"])
    queue.take()
    assert queue.newest("guide").name == "a"
    assert queue.newest("embed") is None


def test_no_process_has_no_birth():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert birth_of(process.pid) is None
    assert birth_of(os.getpid()) is not None


#: Forks that compute in many threads at once, as transformers does when it loads weights.
FORKS = """
import os, threading, torch
from adjointdpm.app.worker import renew_threads

big = torch.ones(200_000)
torch.set_num_threads(1)
failed = 0
for _ in range(20):
    fork = os.fork()
    if fork == 0:
        renew_threads()
        errors = []
        together = threading.Barrier(16)

        def compute():
            together.wait()
            try:
                big.to(torch.float16)
            except RuntimeError as error:
                errors.append(error)

        threads = [threading.Thread(target=compute) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(len(errors))
    failed += os.waitpid(fork, 0)[1] != 0
print(failed)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="runs are forks on Linux alone")
def test_threads_of_a_fork_compute_at_once():
    """Without new threads, between 3 and 10 of these 20 forks fail."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "0\n", done.stderr


def wait_for(queue: JobQueue, condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"too late\n{whereabouts(queue)}"
        time.sleep(0.2)


def whereabouts(queue: JobQueue) -> str:
    """What every job and the worker are doing and have said."""
    lines = []
    for job in queue.jobs():
        lines.append(str(job))
        if queue.log(job.name).exists():
            lines.append(queue.log(job.name).read_text()[-2000:])
    for pid in [worker_of(queue), *(job.pid for job in queue.jobs() if job.pid)]:
        for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
            lines.append(f"{pid} {task.name} {(task / 'stat').read_text()}")
    lines.append((queue.folder / "worker.log").read_text()[-2000:])
    return "\n".join(lines)


def worker_of(queue: JobQueue) -> int:
    return int((queue.folder / "worker.pid").read_text())


def test_many_looks_start_one_worker(queue, monkeypatch):
    started = []

    def sleeping(command, **more):
        """A worker that is still importing."""
        process = popen([sys.executable, "-c", "import time; time.sleep(60)"], **more)
        started.append(process)
        return process

    popen = subprocess.Popen
    monkeypatch.setattr("adjointdpm.app.worker.subprocess.Popen", sleeping)
    for _ in range(5):
        ensure_worker(queue)
    assert len(started) == 1
    started[0].kill()
    started[0].wait()
    ensure_worker(queue)  # the lock was the dead one's
    assert len(started) == 2
    end_worker(queue)
    started[1].wait(timeout=20)


@pytest.mark.slow
def test_a_worker_runs_commands_and_a_run_outlives_it(queue, tmp_path):
    try:
        queue.add("bad", ["guide", "--prompt= ", "--metric=color:mood=dusk"])
        queue.add("good", ["generate", "--steps=1", f"--out={tmp_path / 'good'}", "--", "a cat"])
        ensure_worker(queue)
        wait_for(queue, lambda: [job.state for job in queue.jobs()] == [FAILED, DONE])
        assert "prompt" in queue.jobs()[0].message
        assert len(list((tmp_path / "good").glob("*.png"))) == 4
        # A worker that is killed leaves its run alone, and the next one waits for the run's end.
        command = ["guide", "--prompt=a cat", "--metric=color:mood=dusk", "--steps=4"]
        command += ["--iterations=200", f"--out={tmp_path / 'long'}"]
        queue.add("long", command)
        wait_for(queue, lambda: (tmp_path / "long" / "history.jsonl").exists())
        former = worker_of(queue)
        os.kill(former, signal.SIGKILL)
        wait_for(queue, lambda: birth_of(former) is None)

        def another() -> bool:  # its last threads may hold the lock a moment longer
            ensure_worker(queue)
            return worker_of(queue) != former

        wait_for(queue, another)
        assert queue.find("long").is_alive
        queue.stop("long")
        wait_for(queue, lambda: queue.find("long").state == STOPPED)
        queue.add("long", [*command, "--resume"])
        wait_for(queue, lambda: queue.find("long").state == RUNNING and queue.find("long").pid)
        queue.stop("long")
        wait_for(queue, lambda: queue.find("long").state == STOPPED)
        assert WAITING not in {job.state for job in queue.jobs()}
    finally:
        end_worker(queue)
