"""Stand-ins for what tells whether pictures still show their subjects."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adjointdpm.metrics import Metric
from adjointdpm.optimization.guard import Guard
from adjointdpm.tasks.judge_guard import ContentCheck

Share = Callable[[Tensor, Sequence[str]], float]


class Loses(ContentCheck):
    """Says that a share of pictures is lost; a tenth may be."""

    def __init__(self, share: Share) -> None:
        super().__init__(None)
        object.__setattr__(self, "share", share)

    def lost(self, images: Tensor, untouched: Tensor, prompts: Sequence[str]) -> int:
        lost, before = (self.share(x, prompts) for x in (images, untouched))  # type: ignore[attr-defined]
        return round(len(prompts) * (lost - before))

    def spare(self, count: int) -> int:
        return 0

    def guard(self, untouched: Tensor, prompts: Sequence[str], count: int) -> Guard:
        return Guard(_Share(self.share), 0.1, untouched=0.0)  # type: ignore[attr-defined]


class _Share(Metric):
    def __init__(self, share: Share) -> None:
        self.share = share

    def __call__(self, samples: Tensor, /, prompts: Sequence[str] | None = None) -> Tensor:
        return torch.full((len(samples),), self.share(samples, prompts or ()))
