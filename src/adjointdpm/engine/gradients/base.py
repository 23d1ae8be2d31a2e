"""What a gradient method is: the owner of how one whole solve is differentiated."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.problem import Problem


class GradientMethod(ABC):
    """Solves a sampling problem so that the result can be differentiated."""

    @abstractmethod
    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Return x_0, attached to the autograd graph of everything in `problem` that requires grad.

        Raises:
            UnsupportedError: this method cannot differentiate this problem's sampler.

        """


class AutogradMethod(GradientMethod):
    """A method that only decides what each network call keeps; autograd does the rest.

    It works with every sampler and with any other loop around a network, such as a diffusers
    scheduler.
    """

    @abstractmethod
    def wrap(self, fn: Callable[..., Any], calls: int) -> Callable[..., Any]:
        """Return a replacement for the network `fn`, to be called `calls` times in one solve."""

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Run the sampler's plan with every network call wrapped."""
        return problem.run(self.wrap(problem.denoiser, problem.plan.calls))
