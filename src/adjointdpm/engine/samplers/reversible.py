"""A sampler whose steps can be run backwards exactly, up to rounding."""

from dataclasses import dataclass, field
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.plan import Plan
from adjointdpm.engine.plan_builder import PlanBuilder
from adjointdpm.engine.samplers.base import Sampler
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.errors import InvalidInputError, InvalidTypeError, ScheduleError, ShapeError


@dataclass(frozen=True)
class ReversibleEuler(Sampler):
    """Euler's method made reversible by a second state. Order 1, 2N calls.

    McCallum and Foster 2024, arXiv 2410.11648. In the noise form, with y = z = x_T/α at the start,
    a step of length h in ρ is

        y' = c y + (1 − c) z + h ε(z, ρ),   z' = z + h ε(y', ρ').

    It can be solved for (y, z) without iteration: z from y' and z', then y. Use it for the
    `Reversible` gradient and not for accuracy: y and z drift apart, so it is less accurate than
    Euler's method with as many steps. c draws y back to z, and multiplies rounding errors by 1/c a
    step on the way back. Values near 1, which the paper uses, need many small steps. The sampler is
    unstable where ρ shrinks by a large factor in one step; with `grids.log_snr` the factor is
    constant.

    Args:
        coupling: c, in (0, 1).
        gap: α (y − z) at the first time, in the shape of x_T, as `inversion.invert_reversible`
            finds it for a picture. None: y = z. Gradients hold it fixed.

    Raises:
        InvalidInputError: the coupling is not in (0, 1), or the gap requires grad.
        InvalidTypeError: the gap is not a tensor.
        ShapeError: when sampling, the gap does not have the shape of the noise.

    """

    coupling: float = 0.95
    gap: Float[Tensor, "batch *shape"] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (
            isinstance(self.coupling, bool)
            or not isinstance(self.coupling, int | float)
            or not 0 < self.coupling < 1
        ):
            raise InvalidInputError(
                f"ReversibleEuler(coupling={self.coupling!r}): the coupling must be a number "
                f"between 0 and 1"
            )
        if self.gap is not None and not isinstance(self.gap, Tensor):
            raise InvalidTypeError(
                f"ReversibleEuler(gap=…): the gap must be a tensor, not {type(self.gap).__name__}"
            )
        if self.gap is not None and self.gap.requires_grad:
            raise InvalidInputError("ReversibleEuler(gap=…): the gap gets no gradient; detach it")

    def plan(self, schedule: NoiseSchedule, grid: Float[Tensor, " times"]) -> Plan:
        plan = PlanBuilder(schedule, grid)
        if bool(plan.alpha[0] == 0):
            raise ScheduleError(
                f"ReversibleEuler cannot start at t = {grid[0].item():g}, where there is no signal "
                f"and ρ is infinite; start below it"
            )
        y = z = plan.start / plan.alpha[0]
        if self.gap is not None:
            y = z + plan.draw() / plan.alpha[0]
        c = self.coupling
        for now, then in pairwise(range(len(grid))):
            h = plan.rho[then] - plan.rho[now]
            _, noise = plan.call(z * plan.alpha[now], now)
            y = c * y + (1 - c) * z + h * noise
            _, noise = plan.call(y * plan.alpha[then], then)
            z = plan.keep(z + h * noise)
            y = plan.end_step(y * plan.alpha[then]) / plan.alpha[then]
        return plan.build()

    def calls(self, steps: int) -> int:
        return 2 * steps

    def draw(
        self, index: int, like: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        if self.gap is None:
            return super().draw(index, like)
        if self.gap.shape != like.shape:
            raise ShapeError(
                f"ReversibleEuler's gap has the shape {tuple(self.gap.shape)}; the noise that it "
                f"belongs to has {tuple(like.shape)}"
            )
        return self.gap.to(like.device, like.dtype)
