"""An audit of a model that takes milliseconds: its pictures are smooth noise."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.audit.config import AuditConfig
from adjointdpm.tasks.audit.task import audit
from adjointdpm.tasks.audit.victims import Victim
from helpers.toys import ToyModel


class Warm(nn.Module):
    """Says "night" where a picture has more blue than red by a threshold, and "day" elsewhere."""

    def forward(self, images: Tensor) -> Tensor:
        blue = images[:, 2].mean((1, 2)) - images[:, 0].mean((1, 2)) - 0.15
        return torch.stack([-blue, blue], 1) * 20


def toy_victim() -> Victim:
    """A victim that tells day from night."""
    return Victim("warm", Warm(), ["day", "night"], [(0,), (1,)])


def toy_audit(path: Path, count: int = 12, resume: bool = False, **more: Any) -> dict[str, Any]:
    """Audit `count` prompts that name the day, and one that names nothing."""
    given = {key: more.pop(key) for key in ("report", "recognise", "victim") if key in more}
    settings = {
        "prompts": [*(f"day {i}" for i in range(count)), "nothing"],
        "victim": "warm.py:build",
        "budget": [0.2, 0.5],
        "clean_seeds": 2,
        "least_right": 0.5,
        "iterations": 3,
        "batch": 2,
        "steps": 1,
    }
    config = AuditConfig(**settings | more)
    folder = RunFolder.open(path, {"task": "audit"}, artefacts=config.artefacts, resume=resume)
    given = {"victim": toy_victim()} | given
    # No network of the toy is counted, so that what its gradient costs must be said.
    with patch("adjointdpm.tasks.audit.task.gradient_cost", lambda *_: 4.0):
        return audit(_Toy(), config, folder, resume=resume, **given)


class _Toy(ToyModel):
    """Has what an audit asks of a model besides."""

    device, dtype = torch.device("cpu"), torch.float32
