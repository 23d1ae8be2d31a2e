"""Files of adversarial noise: everything that replays a finding, in one safetensors file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adjointdpm.attack import Findings, Goal, as_saved
from adjointdpm.errors import CheckpointError
from adjointdpm.files import write_bytes
from adjointdpm.rendering import Renderer
from adjointdpm.variables import Example, Noise
from adjointdpm.victims import load_victim

_FORMAT = "adjointdpm-adversarial-noise"


@dataclass(frozen=True)
class Adversarial:
    """What such a file holds.

    Args:
        examples: the prompts, with the seeds of the noises that the attack started from.
        noise, start: `[n, C, H, W]`.
        facts: `model`, `victim`, `target`, `prompts`, `steps`, `guidance_scale`, `sampler`, and by example `labels` and `verdicts`.

    """

    examples: list[Example]
    noise: Tensor
    start: Tensor
    facts: dict[str, Any]


def write_findings(path: Path, examples: Sequence[Example], goal: Goal, found: Findings, noise: Noise, facts: dict[str, Any]) -> Path:
    """Write the noises of an attack, and what it takes to draw and to judge them again."""
    names = goal.victim.groups
    facts |= {
        "examples": [list(example) for example in examples],
        "labels": [names[i] for i in goal.labels.tolist()],
        "verdicts": [names[i] for i in found.verdicts.tolist()],
        "within": noise.within,
        "budget": noise.budget,
    }
    tensors = {"noise": found.noise.float().cpu().contiguous(), "start": noise.start.float().cpu().contiguous()}
    return write_bytes(path, save(tensors, metadata={"format": _FORMAT, "facts": json.dumps(facts)}))


def read_findings(path: Path) -> Adversarial:
    """Read what `write_findings` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or something else.

    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {_FORMAT!r}")
            facts = json.loads(metadata["facts"])
            examples = [Example(str(prompt), int(seed)) for prompt, seed in facts.pop("examples")]
            return Adversarial(examples, file.get_tensor("noise"), file.get_tensor("start"), facts)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no file of adversarial noise that could be replayed: {error}") from error


@torch.no_grad()
def replay(model: Any, found: Adversarial) -> list[dict[str, Any]]:
    """Draw the pictures again and ask the victim again; a row for each example with `was`, the verdict on file, and `now`."""
    facts = found.facts
    victim = load_victim(facts["victim"], facts["prompts"])
    render = Renderer(model, facts["steps"], facts["guidance_scale"], facts["sampler"])
    noise = Noise(found.examples, found.noise, within="free")
    pictures = as_saved(render.look(found.examples, noise))
    now = [victim.groups[i] for i in victim.verdicts(pictures).tolist()]
    rows = zip(found.examples, facts["labels"], facts["verdicts"], now, pictures, strict=True)
    return [{"prompt": e.prompt, "seed": e.seed, "label": label, "was": was, "now": is_, "picture": p} for e, label, was, is_, p in rows]
