"""What the benchmark measures, fixed in a file before anything is tuned."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from adjointdpm import grids
from adjointdpm.engine import samplers
from adjointdpm.engine.samplers import Sampler
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.errors import InvalidInputError
from training.concepts import with_article

REGISTERED = Path(__file__).parent / "preregistration.yaml"


@dataclass(frozen=True)
class Pair:
    """One picture: a prompt, what it names, and the seed of its noise.

    What it names is a class of the model's classifier.
    """

    index: int
    prompt: str
    target: str
    seed: int


@dataclass(frozen=True)
class Setting:
    """One sampler of one length at one guidance.

    Attributes:
        sampler: the registered name.
        calls: N, the number of network calls, the same for samplers with several calls a step.

    """

    sampler: str
    rule: Sampler
    grid_name: str
    calls_per_step: int
    guidance: float
    calls: int

    @property
    def steps(self) -> int:
        """The sampler's steps."""
        return self.calls // self.calls_per_step

    @property
    def key(self) -> dict[str, Any]:
        """What identifies it in results."""
        return {"sampler": self.sampler, "guidance": self.guidance, "calls": self.calls}

    def grid(self, schedule: NoiseSchedule) -> Tensor:
        """The times that it steps through."""
        return getattr(grids, self.grid_name)(schedule, self.steps)


class Registration:
    """The file's content.

    Attributes:
        content: what the YAML holds.
        digest: the first 12 hexadecimal digits of the file's SHA-256, stated in every result, so
            that a later edit shows.

    Raises:
        InvalidInputError: the file cannot be read.

    """

    def __init__(self, path: Path = REGISTERED) -> None:
        try:
            raw = path.read_bytes()
            self.content: dict[str, Any] = yaml.safe_load(raw)
        except (OSError, yaml.YAMLError) as error:
            raise InvalidInputError(f"the registration {path} cannot be read: {error}") from error
        self.digest = hashlib.sha256(raw).hexdigest()[:12]

    @property
    def models(self) -> list[str]:
        """Names of the registered models."""
        return list(self.content["models"])

    def metrics(self, model: str) -> dict[str, str]:
        """The metrics of a model by name, with what they are."""
        return dict(self.content["models"][model]["metrics"])

    def pairs(self, model: str) -> list[Pair]:
        """The pictures of a model, in the order in which they are measured."""
        return [Pair(i, *row) for i, row in enumerate(self.content["models"][model]["pairs"])]

    def settings(self) -> list[Setting]:
        """All of them, those that decide first."""
        return [
            Setting(
                name,
                samplers.resolve(entry["rule"]),
                entry["grid"],
                entry["calls_per_step"],
                float(guidance),
                calls,
            )
            for calls in self.content["calls"]
            for guidance in self.content["guidance"]
            for name, entry in self.content["samplers"].items()
        ]


def choose_prompts(
    concepts: Sequence[str], styles: Sequence[str], count: int, seed: int
) -> list[tuple[str, str, int]]:
    """The registered rule: (prompt, concept, noise seed) of `count` pairs of the bundled model.

    All concepts in alphabetical order, each in all styles, shuffled by `random.Random(seed)`; the
    first `count`; the noise seed of number i is seed + i. Articles as in the captions that the
    model was trained on.
    """
    every = [(style, concept) for concept in sorted(concepts) for style in styles]
    random.Random(seed).shuffle(every)
    return [
        (f"a {style} emoji of {with_article(concept)}", concept, seed + i)
        for i, (style, concept) in enumerate(every[:count])
    ]


def choose_classes(classes: Sequence[str], count: int, seed: int) -> list[tuple[str, str, int]]:
    """The registered rule for a class-conditional model.

    The classes come in turn; the noise seed of number i is seed + i.
    """
    return [(classes[i % len(classes)], classes[i % len(classes)], seed + i) for i in range(count)]


def between(
    schedule: NoiseSchedule, start: float, end: float, steps: int, exponent: float = 7.0
) -> Tensor:
    """A Karras grid of `steps` intervals from time `start` to time `end`.

    The converged solution of the same ODE takes it.
    """
    noisy, clean = schedule.rho(torch.tensor([start, end], dtype=torch.float64)).tolist()
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    times = schedule.time(
        (noisy ** (1 / exponent) + ramp * (clean ** (1 / exponent) - noisy ** (1 / exponent)))
        ** exponent
    )
    times[0], times[-1] = start, end
    return times
