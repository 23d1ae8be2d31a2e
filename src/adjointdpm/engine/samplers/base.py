"""What a sampler is: coefficients on a grid."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.ode import Integrator
from adjointdpm.engine.plan import Plan
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.errors import UnsupportedError


class Sampler(ABC):
    """Builds the plan that takes x_T along a grid to x_0."""

    @abstractmethod
    def plan(self, schedule: NoiseSchedule, grid: Float[Tensor, " times"]) -> Plan:
        """The linear program on `grid`, N + 1 decreasing times."""

    @abstractmethod
    def calls(self, steps: int) -> int:
        """The number of network calls that `steps` steps make."""

    @property
    def integrator(self) -> Integrator | None:
        """The ODE rule that this sampler is, if it is one that the continuous adjoint can use too."""
        return None

    @property
    def deterministic(self) -> bool:
        """Whether the sampler follows the probability-flow ODE, without noise of its own."""
        return True

    def draw(
        self, index: int, like: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        """The noise number `index` of a stochastic sampler, in the shape, dtype and device of
        `like`.
        """
        raise UnsupportedError(f"{type(self).__name__} is deterministic and draws no noise")

    def for_samples(self, numbers: Sequence[int]) -> Self:
        """The same with the noise of samples of these numbers, one for each row of the batch;
        itself if it is deterministic.
        """
        return self
