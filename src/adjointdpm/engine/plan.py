"""A sampler as a linear program: registers, coefficients, and where the network is called."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.errors import ScheduleError, UnsupportedError

Coefficient = (
    float | Tensor
)  # a tensor only where it depends on something that requires grad, such as the time grid
START = 0  # the register of x_T


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


Terms = tuple[tuple[int, Coefficient], ...]


@dataclass(frozen=True)
class NetworkCall:
    """One call of the denoiser: reads the combination `state`, writes x̂_0 to `data` and ε to
    `noise`.
    """

    step: int
    time: Tensor  # scalar, float64, in the schedule's unit
    alpha: Coefficient
    sigma: Coefficient
    state: Terms
    data: int
    noise: int


@dataclass(frozen=True)
class Draw:
    """Fresh standard normal noise, number `index` of this sampler."""

    output: int
    index: int


@dataclass(frozen=True)
class Update:
    """Writes a combination of registers; the last one of each step writes the state that the step
    ends in.
    """

    output: int
    terms: Terms
    ends: int | None = None  # the step that it ends
    data: int | None = None  # the register of that step's x̂_0


Instruction = NetworkCall | Draw | Update


class Evaluate(Protocol):
    """What runs the network for a plan."""

    def __call__(self, call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x̂_0, ε) at the state x and the time of `call`."""
        ...


@dataclass(frozen=True)
class Plan:
    """The linear program of one sampler on one grid.

    The state x_T is register 0. Everything between network calls is linear with known coefficients,
    so the number of calls and the memory are known before anything runs, and the gradient of
    everything but the network is a matter of coefficients.
    """

    instructions: tuple[Instruction, ...]
    grid: Float[Tensor, " times"]
    result: int
    last_read: dict[int, int]  # register -> the instruction after which it can be dropped

    @property
    def steps(self) -> int:
        """N, the number of sampler steps."""
        return len(self.grid) - 1

    @property
    def network_calls(self) -> list[NetworkCall]:
        """The network calls, in order."""
        return [i for i in self.instructions if isinstance(i, NetworkCall)]

    @property
    def calls(self) -> int:
        """The number of network calls."""
        return len(self.network_calls)

    @property
    def requires_grad(self) -> bool:
        """Whether the coefficients want a gradient, for the time grid or something in the schedule."""
        return any(isinstance(c, Tensor) for c in self.coefficients())

    def check_differentiable(self) -> None:
        """Check that the coefficients have derivatives with respect to the grid, if that requires
        grad.

        Raises:
            UnsupportedError: some are infinite or undefined, which would make NaN of the whole
                gradient.

        """
        if not self.grid.requires_grad:
            return
        coefficients = [c for c in self.coefficients() if isinstance(c, Tensor)]
        (derivative,) = torch.autograd.grad(
            torch.stack(coefficients).sum(), self.grid, retain_graph=True
        )
        undefined = torch.nonzero(~derivative.isfinite()).flatten().tolist()
        if undefined:
            i = undefined[0]
            raise UnsupportedError(
                f"the sampler has no derivative with respect to grid[{i}] = "
                f"{self.grid[i].item():g}, where the schedule is singular; move that time inwards, "
                f"or detach the grid"
            )

    def coefficients(self) -> Iterator[Coefficient]:
        """All of them, in order."""
        for instruction in self.instructions:
            match instruction:
                case NetworkCall(alpha=alpha, sigma=sigma, state=terms):
                    yield from (alpha, sigma, *(c for _, c in terms))
                case Update(terms=terms):
                    yield from (c for _, c in terms)

    def run(
        self,
        evaluate: Evaluate,
        start: Float[Tensor, "batch *shape"],
        draw: Callable[[int, Tensor], Tensor],
        on_step: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Float[Tensor, "batch *shape"]:
        """Execute the program from x_T = `start` in its dtype; `on_step(step, x, denoised)` sees
        the state after every step.
        """
        registers = {START: start}
        for position, instruction in enumerate(self.instructions):
            match instruction:
                case NetworkCall():
                    x = _combine(instruction.state, registers)
                    registers[instruction.data], registers[instruction.noise] = evaluate(
                        instruction, x
                    )
                case Draw():
                    registers[instruction.output] = draw(instruction.index, start)
                case Update():
                    registers[instruction.output] = _combine(instruction.terms, registers)
                    if (
                        on_step is not None
                        and instruction.ends is not None
                        and instruction.data is not None
                    ):
                        on_step(
                            instruction.ends,
                            registers[instruction.output],
                            registers[instruction.data],
                        )
            for register in [
                r for r in registers if self.last_read.get(r, -1) <= position and r != self.result
            ]:
                del registers[register]
        return registers[self.result]


def _combine(terms: Terms, registers: dict[int, Tensor]) -> Tensor:
    (first, scale), *rest = terms
    total = (
        registers[first] if isinstance(scale, float) and scale == 1.0 else registers[first] * scale
    )
    for register, coefficient in rest:
        if isinstance(coefficient, Tensor):
            total = total + coefficient * registers[register]
        else:
            total = torch.add(total, registers[register], alpha=coefficient)
    return total


class PlanBuilder:
    """Writes down a plan: a sampler's file reads like its formula.

    Attributes:
        start: x_T.
        t, alpha, sigma, rho: the grid and the schedule on it, lists of N + 1 float64 scalars.
        last_data: x̂_0 of the latest call.

    """

    def __init__(self, schedule: NoiseSchedule, grid: Float[Tensor, " times"]) -> None:
        self.schedule = schedule
        self.grid = grid
        self.start = Linear({START: 1.0})
        self.t = list(grid)
        functions = (schedule.alpha, schedule.sigma, schedule.rho)
        # A grid that requires grad time by time: an infinite derivative at one of its ends must not
        # reach it unless it is used.
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
        """Fresh standard normal noise."""
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
    """Terms with plain numbers where no gradient is wanted, without those that are zero: 0·ε may be
    0·∞ at an end of the schedule.
    """
    terms = ((register, _coefficient(c)) for register, c in linear.terms.items())
    return tuple((register, c) for register, c in terms if isinstance(c, Tensor) or c != 0.0)
