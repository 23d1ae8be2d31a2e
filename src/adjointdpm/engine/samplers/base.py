"""What a sampler is: coefficients on a grid."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

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
        """The ODE solver that this sampler is, if the continuous adjoint can use it too."""
        return None

    @property
    def deterministic(self) -> bool:
        """Whether the sampler follows the probability-flow ODE, without noise of its own."""
        return True

    def draw(
        self, index: int, like: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        """Noise number `index` of a stochastic sampler, shape, dtype and device as `like`."""
        raise UnsupportedError(f"{type(self).__name__} is deterministic and draws no noise")

    def for_samples(self, numbers: Sequence[int]) -> "Sampler":
        """The same sampler, with each row's noise drawn for the sample of that number.

        A deterministic sampler returns itself.
        """
        return self
