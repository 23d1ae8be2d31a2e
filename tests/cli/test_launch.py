"""The command under `accelerate launch`: two real processes on the CPU leave the run folder that
one leaves.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from adjointdpm.runs.trackers import flatten
from helpers.commands import EMBED, SMALL, run

LAUNCH = (
    "--multi_gpu",
    "--num_processes",
    "2",
    "--num_machines",
    "1",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
)
LEARN = (*EMBED, *SMALL, "--batch", 3, "--ema", 0.5, "--distance", 0.1)


def history(folder: str) -> list[dict]:
    records = [json.loads(line) for line in Path(folder, "history.jsonl").read_text().splitlines()]
    return [flatten(record | {"seconds": 0}) for record in records]


@pytest.mark.slow
def test_accelerate_launch_gives_the_result_of_one_process(files, monkeypatch, capsys) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # two processes need two GPUs, or none
    accelerate = Path(sys.executable).with_name("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        accelerate,
        "launch",
        *LAUNCH,
        "--main_process_port",
        port,
        "-m",
        "adjointdpm",
        *LEARN,
        "--out",
        "both",
    ]
    both = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=300
    )
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("Report:") == 1
    code, _, err = run(monkeypatch, capsys, *LEARN, "--out", "alone")
    assert code == 0, err
    results = [json.loads(Path(name, "result.json").read_text()) for name in ("both", "alone")]
    assert [result["processes"] for result in results] == [2, 1]
    for values, wanted in zip(history("both"), history("alone"), strict=True):
        for record in (values, wanted):
            record.pop("network_calls", None)  # batches are shared out
        assert values == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    assert results[0]["held_out"]["after"] == pytest.approx(
        results[1]["held_out"]["after"], rel=1e-4
    )
