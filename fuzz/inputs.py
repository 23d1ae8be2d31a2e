"""What cases start from: a small model, prompts, a metric, a victim, pictures and runs."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fuzz.sandbox import Limits, run_all
from fuzz.verdict import Verdict, command

METRIC = "def score(images):\n    return images[:, 0].mean((1, 2))\n"
VICTIM = """import torch

class Net(torch.nn.Module):
    classes = ["fox", "owl"]

    def forward(self, images):
        red = images[:, 0].mean((1, 2))
        return torch.stack([1 + red, 1 - red], 1)

def build():
    return Net()
"""
_SHORT = {
    "model": "model",
    "steps": "2",
    "guidance_scale": "2",
    "device": "cpu",
    "out": "run",
    "batch": "1",
    "iterations": "1",
}
_LEARN = _SHORT | {"metric": "metric.py:score", "tracker": "none"}
_PROMPTS = {"prompts": "prompts.txt", "validation": "1"}
#: Values of the flags of a short run of each command; an argument without a flag has no dashes.
BASE: dict[str, dict[str, str]] = {
    "embed": _LEARN | _PROMPTS | {"token": "<t>", "initial": "fox", "template": "{prompt} {token}"},
    "align": _LEARN | _PROMPTS | {"rank": "1", "guard": "none"},
    "stylize": {key: value for key, value in _LEARN.items() if key != "metric"}
    | _PROMPTS
    | {"style": "style.png", "rank": "1", "guard": "none"},
    "guide": _LEARN | {"prompt": "red fox"},
    "audit": _SHORT
    | {"prompts": "foxes.txt", "victim": "victim.py:build", "clean_seeds": "1", "budget": "0.1"},
    "generate": {key: value for key, value in _SHORT.items() if key != "iterations"}
    | {"prompt": "red fox"},
    "inspect": {"model": "model", "device": "cpu"},
}
#: Positional arguments.
PLAIN = {"generate": ("prompt",), "inspect": ("model",), "report": ("folder",)}
#: Tasks whose runs are interrupted and damaged, and after how many written files they stop.
INTERRUPTED = {"embed": 7, "align": 7, "guide": 7, "audit": 4}


def arguments(name: str, values: dict[str, str]) -> list[str]:
    """A command line from the values of its flags."""
    plain = PLAIN.get(name, ())
    flags = [
        text
        for key, value in values.items()
        if key not in plain
        for text in (f"--{key.replace('_', '-')}", value)
    ]
    return [name, *flags, *(values[key] for key in plain if key in values)]


def interrupted(name: str) -> list[str]:
    """The command line of the runs that are interrupted: several states are saved."""
    more = {} if name == "audit" else {"iterations": "4", "checkpoint_every": "1"}
    if name == "audit":
        more = {"budget": "0.1", "iterations": "2"}
    return arguments(name, BASE[name] | more)


def two_iterations(name: str) -> list[str]:
    """The command line of a run that is not interrupted, and goes on for two iterations."""
    return arguments(name, BASE[name] | {"iterations": "2"})


def link(inputs: Path) -> None:
    """Put the inputs into the working directory: links to what nobody writes to."""
    for item in inputs.iterdir():
        if item.name != "runs":
            Path(item.name).symlink_to(item)
    os.mkfifo("fifo")
    Path("loop").symlink_to("loop")
    Path("full").mkdir()
    Path("full", "letter.txt").write_text("not yours")


def make_inputs(folder: Path) -> Path:
    """Write all inputs but the runs to a folder that has none yet, and return it."""
    import torch
    from PIL import Image

    from helpers.tiny_pipelines import (  # pyright: ignore[reportMissingImports] - of the tests
        tiny_pipeline,
    )

    if (folder / "style.png").exists():
        return folder
    folder.mkdir(parents=True)
    tiny_pipeline(folder / "tokenizer").save_pretrained(folder / "model")
    shutil.rmtree(folder / "tokenizer", ignore_errors=True)
    (folder / "prompts.txt").write_text("red fox\nfox\nred\nfo re\n")
    (folder / "foxes.txt").write_text("red fox\nfox\n")
    (folder / "metric.py").write_text(METRIC)
    (folder / "victim.py").write_text(VICTIM)
    (folder / "binary").write_bytes(bytes(range(256)) * 4)
    pixels = torch.randint(0, 255, (16, 16, 3), generator=torch.Generator().manual_seed(0))
    Image.fromarray(pixels.byte().numpy()).save(folder / "style.png")
    return folder


def make_runs(inputs: Path, jobs: int = 2) -> None:
    """Make the runs that are damaged, and those that others must equal; once."""
    if (inputs / "runs" / "all").exists():
        return
    shutil.rmtree(inputs / "runs", ignore_errors=True)
    (inputs / "runs").mkdir()
    works = [_maker(inputs, name, interrupted(name), stops) for name, stops in INTERRUPTED.items()]
    works += [_maker(inputs, name, two_iterations(name)) for name in INTERRUPTED]
    for _, verdict, _ in run_all(works, Limits(seconds=300), jobs):
        if not verdict.good:
            raise RuntimeError(f"no run to damage could be made: {verdict.why}")
    (inputs / "runs" / "all").touch()


def _maker(
    inputs: Path, name: str, words: list[str], stops: int | None = None
) -> Callable[[], Verdict]:
    """A function that makes a run, and with `stops` keeps it as it was after so many files."""

    def make() -> Verdict:
        link(inputs)
        runs = inputs / "runs"
        if stops is not None:
            _copy_after(stops, runs / f"{name}-part")
        done = command(*words)
        shutil.copytree("run", runs / (f"{name}-plain" if stops is None else f"{name}-whole"))
        return Verdict("worked") if done.code == 0 else Verdict("crash", done.text)

    return make


def _copy_after(writes: int, kept: Path) -> None:
    """Copy the run as it is after so many files were written: as a kill would leave it."""
    replace, count = os.replace, 0

    def counted(source: str, target: str) -> None:
        nonlocal count
        replace(source, target)
        count += 1
        if count == writes:
            shutil.copytree("run", kept)

    os.replace = counted  # pyright: ignore[reportAttributeAccessIssue]
