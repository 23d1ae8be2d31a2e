"""What the benchmarks share: the machine that they ran on, Markdown, and writing results."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from adjointdpm.support.files import write_text

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """One line on what was used to measure."""
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores of which "
        f"{torch.get_num_threads()} used, Python {platform.python_version()}, torch "
        f"{torch.__version__}, diffusers {diffusers.__version__}"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_json(name: str, content: Any) -> None:
    """Write `results/name.json`."""
    write_text(RESULTS / f"{name}.json", json.dumps(content) + "\n")


def read_json(name: str) -> Any:
    """Read `results/name.json`."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def fill(page: Path, content: str) -> None:
    """Put `content` between the two `measured` marks of a page; what is written around them stays."""
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    text = page.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"{page} needs the marks {begin} and {end}, once each")
    before, after = text.split(begin)[0], text.split(end)[1]
    write_text(page, f"{before}{begin}\n\n{content}\n\n{end}{after}")
