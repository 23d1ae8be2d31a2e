"""A sampler as a linear program, run forwards on states and backwards on costates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import UnsupportedError

# A tensor only where it depends on something that requires grad, such as the time grid.
Coefficient = float | Tensor
START = 0  # the register of x_T
# A linear combination of registers: (register, coefficient) pairs.
Terms = tuple[tuple[int, Coefficient], ...]


@dataclass(frozen=True)
class NetworkCall:
    """One call of the denoiser at the combination `state`.

    It writes x̂_0 to the register `data` and ε to the register `noise`.
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
    """Writes the sampler's standard normal noise number `index`."""

    output: int
    index: int


@dataclass(frozen=True)
class Update:
    """Writes a combination of registers; the last one of a step writes the state it ends in."""

    output: int
    terms: Terms
    ends: int | None = None  # the step that this update ends
    data: int | None = None  # the register of that step's x̂_0


Instruction = NetworkCall | Draw | Update


@runtime_checkable
class Evaluate(Protocol):
    """Runs the network for a plan."""

    def __call__(self, call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return (x̂_0, ε) at the state x and the time of `call`."""
        ...


@dataclass(frozen=True)
class Plan:
    """The linear program of one sampler on one grid.

    x_T is register 0. Everything between network calls is linear with known coefficients. So the
    number of calls and the memory are known before anything runs, and only the network has to be
    differentiated.
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
        """Whether a coefficient requires grad, for the time grid or something in the schedule."""
        return any(isinstance(c, Tensor) for c in self.coefficients())

    def check_differentiable(self) -> None:
        """Check that the coefficients have finite derivatives with respect to the grid.

        Nothing is checked if the grid does not require grad.

        Raises:
            UnsupportedError: some derivatives are infinite or undefined, which would make the whole
                gradient NaN.

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
        """All coefficients, in the order of the instructions."""
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
        """Execute the program from x_T = `start`, in its dtype.

        Args:
            evaluate: runs the network.
            start: x_T.
            draw: `draw(index, like)` makes noise in the shape, dtype and device of `like`.
            on_step: called as `on_step(step, x, denoised)` after every step.

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


# Register -> ∂L/∂register: tensors, or numbers where only the coefficients matter.
Costates = dict[int, Any]
# Takes a call and the costates of its x̂_0 and ε (None: not used); returns that of its state.
Pull = Callable[[NetworkCall, Any, Any], Any]


def split_steps(plan: Plan) -> list[tuple[Instruction, ...]]:
    """The plan's instructions, one tuple for each sampler step."""
    steps: list[tuple[Instruction, ...]] = []
    start = 0
    for position, instruction in enumerate(plan.instructions):
        if isinstance(instruction, Update) and instruction.ends is not None:
            steps.append(plan.instructions[start : position + 1])
            start = position + 1
    return steps


def transpose(instructions: Sequence[Instruction], costates: Costates, pull: Pull) -> None:
    """Run `instructions` backwards, updating `costates` in place.

    The costates of registers that the instructions write are used up; those of registers that they
    read are added.

    Args:
        instructions: a part of a plan.
        costates: ∂L/∂register, by register.
        pull: multiplies by the transposed Jacobian of a network call.

    """
    for instruction in reversed(instructions):
        match instruction:
            case Update():
                costate = costates.pop(instruction.output, None)
                if costate is not None:
                    _spread(costate, instruction.terms, costates)
            case Draw():
                costates.pop(instruction.output, None)
            case NetworkCall():
                data, noise = (
                    costates.pop(instruction.data, None),
                    costates.pop(instruction.noise, None),
                )
                if data is not None or noise is not None:
                    _spread(pull(instruction, data, noise), instruction.state, costates)


def _spread(costate: Any, terms: Terms, costates: Costates) -> None:
    for register, coefficient in terms:
        part = costate * coefficient
        costates[register] = costates[register] + part if register in costates else part
