"""What the author of a sampler writes: registers as ordinary arithmetic, steps as formulas."""

import math
from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.plan import (
    START,
    Coefficient,
    Draw,
    Instruction,
    NetworkCall,
    Plan,
    Terms,
    Update,
)
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.errors import ScheduleError


class Linear:
    """A linear combination of registers, written as ordinary arithmetic while a plan is built."""

    def __init__(self, terms: dict[int, Coefficient]) -> None:
        self.terms = terms

    def __add__(self, other: "Linear") -> "Linear":
        terms = dict(self.terms)
        for register, coefficient in other.terms.items():
            terms[register] = terms[register] + coefficient if register in terms else coefficient
        return Linear(terms)

    def __mul__(self, factor: Coefficient) -> "Linear":
        return Linear(
            {register: factor * coefficient for register, coefficient in self.terms.items()}
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: Coefficient) -> "Linear":
        return self * (1 / divisor)

    def __sub__(self, other: "Linear") -> "Linear":
        return self + other * -1.0

    @staticmethod
    def sum(terms: Iterable["Linear"]) -> "Linear":
        """The sum of `terms`; the empty combination for none."""
        total = Linear({})
        for term in terms:
            total = total + term
        return total


class PlanBuilder:
    """Builds a plan, so that a sampler's code reads like its formula.

    Attributes:
        start: x_T.
        t, alpha, sigma, rho: the grid and the schedule on it, lists of N + 1 float64 scalars.

    """

    def __init__(self, schedule: NoiseSchedule, grid: Float[Tensor, " times"]) -> None:
        self.schedule = schedule
        self.grid = grid
        self.start = Linear({START: 1.0})
        self.t = list(grid)
        functions = (schedule.alpha, schedule.sigma, schedule.rho)
        # One time after the other if the grid requires grad, so that an infinite derivative at one
        # of its ends reaches the grid only if it is used.
        self.alpha, self.sigma, self.rho = (
            [f(t) for t in self.t] if grid.requires_grad else list(f(grid)) for f in functions
        )
        self._instructions: list[Instruction] = []
        self._registers = 1
        self._step = 0
        self._draws = 0
        self._data = START

    def call(self, state: Linear, step: int) -> tuple[Linear, Linear]:
        """Call the network on `state` at grid time number `step`; returns (x̂_0, ε)."""
        return self._call(state, self.t[step], self.alpha[step], self.sigma[step])

    def call_at(self, state: Linear, t: Tensor) -> tuple[Linear, Linear]:
        """Call the network on `state` at any time of the schedule; returns (x̂_0, ε)."""
        return self._call(state, t, self.schedule.alpha(t), self.schedule.sigma(t))

    def draw(self) -> Linear:
        """Draw fresh standard normal noise."""
        output = self._new()
        self._instructions.append(Draw(output, self._draws))
        self._draws += 1
        return Linear({output: 1.0})

    def keep(self, value: Linear) -> Linear:
        """Give a combination a register of its own, for later steps to read."""
        output = self._new()
        self._instructions.append(Update(output, _freeze(value)))
        return Linear({output: 1.0})

    def end_step(self, state: Linear) -> Linear:
        """Make `state` the state after the current step."""
        output = self._new()
        self._instructions.append(Update(output, _freeze(state), ends=self._step, data=self._data))
        self._step += 1
        return Linear({output: 1.0})

    def build(self) -> Plan:
        """The finished plan; the state of the last step is its result.

        Raises:
            ScheduleError: a coefficient is not finite.

        """
        last_read: dict[int, int] = {}
        for position, instruction in enumerate(self._instructions):
            match instruction:
                case NetworkCall(state=terms):
                    last_read |= dict.fromkeys([r for r, _ in terms], position)
                case Update(terms=terms, data=data):
                    last_read |= dict.fromkeys(
                        [r for r, _ in terms] + ([] if data is None else [data]), position
                    )
        plan = Plan(tuple(self._instructions), self.grid, self._registers - 1, last_read)
        if not all(math.isfinite(_detached(coefficient)) for coefficient in plan.coefficients()):
            raise ScheduleError(
                f"on the grid from t = {self.grid[0].item():g} to {self.grid[-1].item():g} in "
                f"{plan.steps} steps, a step of this sampler has no finite coefficients: it starts "
                f"without signal and ends without noise; take more steps, or Euler"
            )
        return plan

    def _call(
        self, state: Linear, t: Tensor, alpha: Tensor, sigma: Tensor
    ) -> tuple[Linear, Linear]:
        data, noise = self._new(), self._new()
        terms = _freeze(state)
        call = NetworkCall(
            self._step, t, _coefficient(alpha), _coefficient(sigma), terms, data, noise
        )
        self._instructions.append(call)
        self._data = data
        return Linear({data: 1.0}), Linear({noise: 1.0})

    def _new(self) -> int:
        self._registers += 1
        return self._registers - 1


def _coefficient(value: Coefficient) -> Coefficient:
    return value.item() if isinstance(value, Tensor) and not value.requires_grad else value


def _detached(value: Coefficient) -> float:
    return value.detach().item() if isinstance(value, Tensor) else value


def _freeze(linear: Linear) -> Terms:
    """Terms with plain numbers where no gradient is wanted, and without zeros.

    A term 0·ε may be 0·∞ at an end of the schedule.
    """
    terms = ((register, _coefficient(c)) for register, c in linear.terms.items())
    return tuple((register, c) for register, c in terms if isinstance(c, Tensor) or c != 0.0)
