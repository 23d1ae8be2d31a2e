"""Stochastic sampling: DDIM with η > 0, at η = 1 the ancestral sampler."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.plan import Plan
from adjointdpm.engine.plan_builder import PlanBuilder
from adjointdpm.engine.samplers.base import Sampler
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.engine.seeded_noise import standard_normal
from adjointdpm.errors import InvalidInputError, InvalidTypeError, ShapeError


@dataclass(frozen=True)
class Ancestral(Sampler):
    """DDIM with fresh noise of variance s² = η² σ'² (1 − (ρ'/ρ)²) in every step. N calls.

    Song et al. 2021, arXiv 2010.02502, eq. 12 and 16. The noise depends on `seed`, the sample's
    number and the step alone, so runs repeat exactly. Gradients hold it fixed.

    Args:
        eta: η in [0, 1]; 0 is DDIM, 1 is DDPM's posterior variance (for variance-exploding
            schedules the "ancestral" sampler).
        seed: any int.
        samples: the number of each sample of the batch, any int, so that a sample gets the same
            noise in every batch. None: its place in the batch.

    Raises:
        InvalidInputError: η outside [0, 1].
        InvalidTypeError: η is not a number, or the seed or a sample's number is not an int.
        ShapeError: when sampling, there is not one number for each sample.

    """

    eta: float = 1.0
    seed: int = 0
    samples: tuple[int, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.eta, bool) or not isinstance(self.eta, int | float):
            raise InvalidTypeError(f"Ancestral(eta={self.eta!r}): eta must be a number")
        if not (math.isfinite(self.eta) and 0 <= self.eta <= 1):
            raise InvalidInputError(f"Ancestral(eta={self.eta!r}): eta must lie in [0, 1]")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InvalidTypeError(f"Ancestral(seed={self.seed!r}): the seed must be an int")
        wrong = [
            number
            for number in self.samples or ()
            if isinstance(number, bool) or not isinstance(number, int)
        ]
        if wrong:
            raise InvalidTypeError(
                f"Ancestral(samples=…): the number of a sample must be an int, not {wrong[0]!r}"
            )

    def plan(self, schedule: NoiseSchedule, grid: Float[Tensor, " times"]) -> Plan:
        plan = PlanBuilder(schedule, grid)
        x = plan.start
        for now, then in pairwise(range(len(grid))):
            data, noise = plan.call(x, now)
            # ρ'/ρ, with a derivative also where ρ is infinite.
            ratio = (plan.sigma[then] * plan.alpha[now]) / (plan.alpha[then] * plan.sigma[now])
            fresh = self.eta * (1 - ratio**2) ** 0.5
            # At η = 1 the root has no derivative where the ratio is 0.
            kept = ratio if self.eta == 1 else (1 - fresh**2) ** 0.5
            x_next = plan.alpha[then] * data + (plan.sigma[then] * kept) * noise
            if self.eta > 0 and (bool(plan.sigma[then] > 0) or plan.sigma[then].requires_grad):
                x_next = x_next + (plan.sigma[then] * fresh) * plan.draw()
            x = plan.end_step(x_next)
        return plan.build()

    def calls(self, steps: int) -> int:
        return steps

    @property
    def deterministic(self) -> bool:
        return self.eta == 0

    def draw(
        self, index: int, like: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        if self.samples is None:
            return standard_normal(like, self.seed, stream=index + 1)
        if len(self.samples) != len(like):
            raise ShapeError(
                f"Ancestral has numbers for {len(self.samples)} samples, and the batch holds "
                f"{len(like)}; give one for each"
            )
        rows = zip(like.split(1), self.samples, strict=True)
        return torch.cat(
            [
                standard_normal(row, self.seed, stream=index + 1, first=number)
                for row, number in rows
            ]
        )

    def for_samples(self, numbers: Sequence[int]) -> "Ancestral":
        return replace(self, samples=tuple(numbers))
