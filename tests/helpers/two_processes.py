"""A script run by two processes that know of each other, as `accelerate launch` starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_in_two_processes(script: str, out: Path, timeout: float) -> None:
    """Run a script with one argument, in two processes on this machine's CPU.

    Args:
        script: its file.
        out: the argument.
        timeout: seconds for each.

    Raises:
        AssertionError: one of them did not end well; with what both printed.

    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # pytest's, for `helpers`
        "ACCELERATE_USE_CPU": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    children = [
        subprocess.Popen(
            [sys.executable, script, str(out)],
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        outputs = [child.communicate(timeout=timeout)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(outputs)
