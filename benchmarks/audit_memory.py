"""Memory of an audit by the number of prompts, with a model that takes milliseconds.

`python -m benchmarks.audit_memory --page docs/guides/audit.md`

Each audit runs in a process of its own. Its pictures, noises, findings and report are written as
those of any audit.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.provenance import peak_memory_bytes
from adjointdpm.runs.report import write_report
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.task import audit
from adjointdpm.tasks.audit.victims import Victim
from benchmarks.common import (
    Page,
    PageOnly,
    machine,
    publish,
    read_results,
    run,
    table,
    write_results,
)

_NAME = "audit-memory"
_MODULE = "benchmarks.audit_memory"


class Smooth:
    """A model of one layer, sampled by this library."""

    def __init__(self) -> None:
        self.pipe = SimpleNamespace(unet=nn.Conv2d(3, 3, 1), components={})
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def noise(self, batch: int, seed: int) -> Tensor:
        """Draw initial noise."""
        return torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed))

    def generate(
        self, prompt: Any, noise: Tensor, *, steps: int, gradient: Any, **_: Any
    ) -> Tensor:
        """Draw pictures, 16 pixels a side."""
        schedule = adj.NoiseSchedule.linear()
        drawn = adj.sample(
            lambda x, t, cond: 0.1 * self.pipe.unet(x),
            noise,
            schedule=schedule,
            steps=steps,
            gradient=gradient,
        )
        return torch.sigmoid(nn.functional.interpolate(drawn, (16, 16), mode="bilinear"))


class Warm(nn.Module):
    """Tells bluish pictures from others."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits of "day" and "night"."""
        blue = images[:, 2].mean((1, 2)) - images[:, 0].mean((1, 2)) - 0.15
        return torch.stack([-blue, blue], 1) * 20


def measure(count: int) -> dict[str, Any]:
    """Audit `count` prompts; what it took. Run it in a process of its own."""
    torch.manual_seed(0)
    config = AuditConfig(
        victim="warm.py:build",
        prompts=[f"day {i}" for i in range(count)],
        budget=[0.2, 0.5],
        clean_seeds=2,
        iterations=3,
        batch=8,
        steps=1,
    )
    victim, began = Victim("warm", Warm(), ["day", "night"], [(0,), (1,)]), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        opened = RunFolder.open(Path(folder, "run"), {"task": "audit"})
        result = audit(Smooth(), config, opened, victim=victim)
        audited = peak_memory_bytes()
        report = write_report(opened).stat().st_size
    return {
        "prompts": count,
        "attacked": result["held_out"]["examples"],
        "audit": audited,
        "with report": peak_memory_bytes(),
        "report": report,
        "seconds": time.perf_counter() - began,
    }


def main(
    prompts: Annotated[list[int], typer.Option(help="How many prompts.")] = [100, 1000, 10_000],  # noqa: B006
    page: Page = None,
    page_only: PageOnly = False,
) -> None:
    """Measure peak memory by the number of prompts, and keep the figures."""
    if not page_only:
        audits = []
        for count in prompts:
            code = f"import json, {_MODULE} as m; print(json.dumps(m.measure({count})))"
            done = subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, text=True
            )
            audits.append(json.loads(done.stdout.splitlines()[-1]))
        write_results(_NAME, {"machine": machine(), "audits": audits})
    publish(page_text(read_results(_NAME)), page)


def page_text(content: Mapping[str, Any]) -> str:
    """The table: an audit in each row."""
    rows = [
        [
            str(found["prompts"]),
            str(found["attacked"]),
            f"{found['audit'] / 1e6:.0f} MB",
            f"{found['with report'] / 1e6:.0f} MB",
            f"{found['report'] / 1e6:.2f} MB",
            f"{found['seconds']:.0f} s",
        ]
        for found in content["audits"]
    ]
    head = ["prompts", "attacked", "peak of the audit", "with its report", "report.html", "time"]
    return (
        f"Measured with `python -m {_MODULE}` on {content['machine']}: audits with a model and a "
        "victim of one layer each, so that the pictures cost nothing and the bookkeeping shows. "
        f"Each is a process of its own.\n\n{table(head, rows)}"
    )


if __name__ == "__main__":
    run(main)
