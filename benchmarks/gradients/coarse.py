"""The gradient of a shorter sampler in place of the one that makes the picture.

It is the simplest way to save network work.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients import Checkpoint, GradientMethod
from adjointdpm.engine.problem import Problem


@dataclass(frozen=True)
class CoarseSampler(GradientMethod):
    """The exact gradient of the same sampler with M steps, on M of the N intervals' ends.

    For Euler this is coarse DDIM.

    The loss is evaluated at the shorter sampler's own picture, as whoever samples with fewer steps
    does. M (2F + B) network work.

    Args:
        steps: M.

    """

    steps: int

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Sample with M steps."""
        grid = problem.plan.grid
        position = torch.linspace(
            0, len(grid) - 1, min(self.steps, len(grid) - 1) + 1, dtype=torch.float64
        )
        coarse = grid[position.round().long()]
        return Checkpoint().solve(
            replace(problem, plan=problem.sampler.plan(problem.schedule, coarse))
        )
