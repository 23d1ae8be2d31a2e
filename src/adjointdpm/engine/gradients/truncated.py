"""Gradients through the last K sampler steps only: cheap, biased, here for comparison."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients.base import AutogradMethod
from adjointdpm.engine.gradients.checkpoint import Checkpoint
from adjointdpm.engine.problem import Problem
from adjointdpm.errors import InvalidInputError, UnsupportedError


@dataclass(frozen=True)
class Truncated(AutogradMethod):
    """Biased gradient: network outputs before the last K steps count as constants (DRaFT-K).

    Clark et al. 2023, arXiv 2309.17400. For the conditioning and the weights this is the gradient
    through the last K steps. The noise still gets what the linear state arithmetic of the earlier
    steps passes on. The bias does not vanish with more sampler steps; `Checkpoint` is exact, also
    with the memory of one graph. The time grid gets no gradient, since its earlier times would get
    only a part of theirs.

    Args:
        last: K, the number of steps that are differentiated, at least 1. More than there are steps
            means all of them.

    Raises:
        InvalidInputError: `last` is not an int of at least 1.

    """

    last: int

    def __post_init__(self) -> None:
        if isinstance(self.last, bool) or not isinstance(self.last, int) or self.last < 1:
            raise InvalidInputError(
                f"Truncated(last={self.last!r}): last must be an int of at least 1 step"
            )

    def wrap(self, fn: Callable[..., Any], calls: int) -> Callable[..., Any]:
        """Take each call as one step, as a loop with one network call a step does."""
        return _constant_before(fn, calls, min(self.last, calls))

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Run the plan; only calls that belong to the last K steps are differentiated."""
        first = problem.plan.steps - self.last
        if first > 0 and problem.plan.requires_grad:
            raise UnsupportedError(
                "Truncated gives no gradient with respect to the time grid; use Checkpoint(), or "
                "detach the grid"
            )
        live = sum(call.step >= first for call in problem.plan.network_calls)
        return problem.run(_constant_before(problem.denoiser, problem.plan.calls, live))


def _constant_before(fn: Callable[..., Any], calls: int, live: int) -> Callable[..., Any]:
    differentiated = Checkpoint().wrap(fn, live)
    made = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        made += 1
        if made > calls - live:
            return differentiated(*args, **kwargs)
        with torch.no_grad():
            return fn(*args, **kwargs)

    return call
