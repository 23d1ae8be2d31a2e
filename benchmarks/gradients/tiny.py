"""The bundled model in the benchmark, and any other pipeline that knows the same prompts."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.engine.tree import Tree
from adjointdpm.metrics import GramStyle, resolve
from adjointdpm.metrics.networks.judge import Judge
from adjointdpm.pipelines import load
from adjointdpm.pipelines.base import DiffusionModel
from adjointdpm.tasks.demo import reference_pattern
from adjointdpm.variables.lora import LoRA
from benchmarks.gradients.registration import Pair
from benchmarks.gradients.workload import LORA_RANK, LORA_TARGETS, Workload


class PipelineWorkload(Workload):
    """A text-to-image pipeline; losses are of decoded pictures.

    Args:
        model: the pipeline.
        metrics: by name, what `metrics.resolve` takes; "judge" for the bundled judge's
            cross-entropy to the pair's target; "gram" for the distance to the style of
            `reference_pattern`.
        name: in results.

    """

    def __init__(self, model: DiffusionModel, metrics: Mapping[str, str], name: str) -> None:
        self.model, self.metrics, self.name = model, metrics, name
        self.network = model.network
        self.schedule = NoiseSchedule.from_scheduler(model.pipe.scheduler)
        self._known: dict[str, dict[str, Tensor]] = {}

    def noise(self, pairs: Sequence[Pair]) -> Tensor:
        return torch.cat([self.model.noise(1, pair.seed) for pair in pairs])

    def conditioning(self, pairs: Sequence[Pair], guidance: float) -> tuple[Tree, Tree, float]:
        for prompt in {pair.prompt for pair in pairs} - self._known.keys():
            self._known[prompt] = self.model.encode(prompt)
        rows = [self._known[pair.prompt] for pair in pairs]
        encoded = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        return self.model.conditioning(encoded, None, guidance)

    def losses(self, metric: str, x: Tensor, pairs: Sequence[Pair]) -> Tensor:
        pictures = self.model.decode(x)
        match self.metrics[metric]:
            case "judge":
                targets = torch.tensor(
                    [self._judge.concepts.index(pair.target) for pair in pairs], device=x.device
                )
                return torch.nn.functional.cross_entropy(
                    self._judge.concept_logits(pictures), targets, reduction="none"
                )
            case "gram":
                return self._gram(pictures)
            case other:
                return resolve(other)(pictures)

    @contextmanager
    def adapter(self) -> Iterator[list[Tensor]]:
        with LoRA(self.model.pipe, rank=LORA_RANK, target_modules=LORA_TARGETS) as lora:
            yield list(lora.tensors().values())

    @cached_property
    def _judge(self) -> Judge:
        return Judge.load().to(self.model.device)

    @cached_property
    def _gram(self) -> GramStyle:
        return GramStyle(reference_pattern())


def load_tiny(metrics: Mapping[str, str], device: str = "cpu") -> PipelineWorkload:
    """The bundled model, float32."""
    model: Any = load("tiny")
    model.pipe.to(device)
    return PipelineWorkload(model, metrics, "tiny")
