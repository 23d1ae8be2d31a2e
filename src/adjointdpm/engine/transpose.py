"""A plan run backwards: what multiplies a costate instead of a state."""

from collections.abc import Callable, Sequence
from typing import Any

from adjointdpm.engine.plan import Draw, Instruction, NetworkCall, Plan, Terms, Update

Costates = dict[
    int, Any
]  # register -> ∂L/∂register: tensors, or numbers where only the coefficients matter
# Costates of x̂_0 and ε of a call (None: not used) -> costate of the state that it read.
Pull = Callable[[NetworkCall, Any, Any], Any]


def split_steps(plan: Plan) -> list[tuple[Instruction, ...]]:
    """The plan's instructions, one tuple a sampler step."""
    steps: list[tuple[Instruction, ...]] = []
    start = 0
    for position, instruction in enumerate(plan.instructions):
        if isinstance(instruction, Update) and instruction.ends is not None:
            steps.append(plan.instructions[start : position + 1])
            start = position + 1
    return steps


def transpose(instructions: Sequence[Instruction], costates: Costates, pull: Pull) -> None:
    """Run `instructions` backwards on `costates`, in place; registers that they write are used up."""
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
