"""Code of the user that fails late: exit code 2, and the run goes on once it is mended."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.commands import SMALL, run

GUIDE = ("guide", "--model", "model", "--prompt", "red fox", "--metric", "late.py:score")
GOOD = "def score(images):\n    return images[:, 0].mean((1, 2))\n"


def late(failure: str, call: int) -> str:
    """A metric that fails at one of its calls."""
    return (
        "import sys\ncalls = 0\n\ndef score(images):\n    global calls\n    calls += 1\n"
        f"    if calls == {call}:\n        {failure}\n    return images[:, 0].mean((1, 2))\n"
    )


def result(folder: str) -> dict:
    text = Path(folder, "result.json").read_text()
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in result.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ("raise ValueError('odd')", "ValueError: odd"),
        ("sys.exit(0)", "sys.exit(0)"),
        ("return images[:, 0].mean((1, 2)) * float('nan')", "NaN"),
    ],
)
def test_a_metric_that_fails_late(files, monkeypatch, capsys, failure: str, says: str) -> None:
    Path("late.py").write_text(GOOD)
    code, _, err = run(monkeypatch, capsys, *GUIDE, *SMALL, "--out", "whole")
    assert code == 0, err
    failed = 0
    for call in (3, 4, 5, 6):
        Path("late.py").write_text(late(failure, call))
        out = f"run{call}"
        code, _, err = run(monkeypatch, capsys, *GUIDE, *SMALL, "--out", out)
        if code == 0:
            continue  # the run has fewer calls
        failed += 1
        told = " ".join(err.split())
        assert code == 2
        assert "Traceback" not in err
        assert "late.py" in told
        assert says in told
        assert ("line 8" in told) == ("nan" not in failure)
        assert not Path(out, "result.json").exists()
        Path("late.py").write_text(GOOD)
        code, _, err = run(monkeypatch, capsys, *GUIDE, *SMALL, "--out", out, "--resume")
        assert code == 0, err
        assert result(out)["held_out"] == result("whole")["held_out"]
        assert load_file(f"{out}/noise.safetensors")["noise"].equal(
            load_file("whole/noise.safetensors")["noise"]
        )
    assert failed >= 2


VICTIM = """
import torch
calls = 0
class Net(torch.nn.Module):
    classes = ["fox", "red"]
    def forward(self, images):
        global calls
        calls += 1
        if calls == AT:
            raise ValueError("odd")
        return torch.stack([0.9 - images[:, 0].mean((1, 2)), torch.zeros(len(images))], 1)
def build():
    return Net()
"""


@pytest.mark.slow
def test_a_victim_that_fails_late(files, monkeypatch, capsys) -> None:
    Path("foxes.txt").write_text("fox\nfo fox\n")
    flags = (
        *("audit", "--model", "model", "--prompts", "foxes.txt", "--victim", "victim.py:build"),
        *("--device", "cpu", "--steps", 2, "--iterations", 2, "--budget", 0.2, "--clean-seeds", 2),
        *("--least-right", 0.1, "--no-random-search", "--guidance-scale", 2),
    )
    Path("victim.py").write_text(VICTIM.replace("AT", "0"))
    code, _, err = run(monkeypatch, capsys, *flags, "--out", "whole")
    assert code == 0, err
    Path("victim.py").write_text(VICTIM.replace("AT", "4"))
    code, _, err = run(monkeypatch, capsys, *flags, "--out", "run")
    told = " ".join(err.split())
    assert code == 2
    assert "ValueError: odd" in told
    assert "line 10, in forward" in told
    assert "--resume" in told
    Path("victim.py").write_text(VICTIM.replace("AT", "0"))
    code, _, err = run(monkeypatch, capsys, *flags, "--out", "run", "--resume")
    assert code == 0, err
    assert result("run")["success"] == result("whole")["success"]


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("tokenizer/tokenizer_config.json", {"pad_token": None}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10**6}),
        ("text_encoder/config.json", {"eos_token_id": None}),
    ],
)
def test_a_model_whose_files_do_not_fit_together_is_one_sentence(
    files, monkeypatch, capsys, part: str, changes: dict
) -> None:
    path = files / "model" / part
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    flags = ("--model", "model", "--device", "cpu", "--steps", 1, "--batch", 1, "--out", "out")
    code, _, err = run(monkeypatch, capsys, "generate", "red fox", *flags)
    assert code == 2
    assert "Traceback" not in err
    assert "may not fit together" in err
