"""What the steps of a loop have in common, read off two of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.pipelines.native_loop.argument_roles import (
    PLAIN,
    Constant,
    Output,
    Role,
    Same,
    State,
    Time,
    filled_with,
    rounding,
    state_in,
)
from adjointdpm.pipelines.native_loop.guidance_weights import cut, fitted_weights, output_rows
from adjointdpm.pipelines.native_loop.noise_levels import NotReplayable
from adjointdpm.pipelines.native_loop.recorded_network import CallForm
from adjointdpm.pipelines.native_loop.recorded_step import Call, Step


@dataclass
class LoopForm:
    """How the networks' arguments and the scheduler's follow from state and time.

    Attributes:
        networks: that are called in a step.
        calls: in order.
        constants: the tensors that stay the same, with their graphs.
        times: how many places of the arguments hold a time.
        copies: how often the batch stands in the state, one after the other (DiT: twice).
        scaled: whether the networks get the state times something.
        weights: of the networks' outputs in what the scheduler gets, by part and sample.

    """

    networks: list[nn.Module] = field(default_factory=list)
    calls: list[CallForm] = field(default_factory=list)
    constants: list[Tensor] = field(default_factory=list)
    times: int = 0
    copies: int = 1
    scaled: bool = False
    weights: Tensor = field(default_factory=lambda: torch.empty(0))

    def base(self, tensor: Tensor) -> Tensor:
        """A state or output without its copies."""
        return tensor[: len(tensor) // self.copies]

    def rows(self, step: Step) -> Tensor:
        """What the networks returned, as rows of the shape of a state, without graphs."""
        x = self.base(step.state)
        counted = [c for c, form in zip(step.calls, self.calls, strict=True) if form.counts]
        found = [output_rows(call.outputs, x) for call in counted]
        made = [part.detach() for part in found if part is not None]
        if not made or len(made) < len(found):
            raise NotReplayable("its networks return no tensor of the shape of the state")
        dtype = torch.promote_types(torch.float32, step.output.dtype)
        return torch.cat([part.to(dtype) for part in made])

    def target(self, step: Step) -> Tensor:
        """What the scheduler got, in the shape of the state: without a variance beside it."""
        x = self.base(step.state)
        found = cut(self.base(step.output.detach()), x)
        if found is None or found.shape != x.shape:
            raise NotReplayable("what its scheduler gets has another shape than the state")
        return found

    def scales(self, step: Step) -> list[tuple[float, float]]:
        """The factors between the state and what the networks get for it, with their rounding."""
        x = self.base(step.state)
        return [
            (scale, rounding(leaf.dtype))
            for call, form in zip(step.calls, self.calls, strict=True)
            for leaf, role in zip(call.leaves, form.roles, strict=True)
            if isinstance(role, State) and (scale := role.scale(leaf, x)) is not None
        ]


def read_form(first: Step, later: Step) -> LoopForm:
    """Compare two steps, whose states, times and outputs differ.

    Raises:
        NotReplayable: something differs that is neither state nor time nor follows from them.

    """
    form = LoopForm(copies=_copies([first.state, later.state]))
    numbers: dict[int, int] = {}
    for call, other in zip(first.calls, later.calls, strict=True):
        if call.spec != other.spec or call.shapes != other.shapes:
            raise NotReplayable(f"the arguments of {call.name!r} differ from step to step")
        if getattr(call.network, "is_cache_enabled", False):
            raise NotReplayable(f"its network {call.name!r} keeps a cache from step to step")
        if id(call.network) not in numbers:
            numbers[id(call.network)] = len(form.networks)
            form.networks.append(call.network)
        before = first.calls[: len(form.calls)]
        pairs = zip(call.names, call.leaves, other.leaves, strict=True)
        roles = tuple(_role(form, *pair, form.base(first.state), before) for pair in pairs)
        counts = output_rows(other.outputs, form.base(later.state)) is not None
        form.calls.append(CallForm(numbers[id(call.network)], call.spec, roles, counts))
    if not any(isinstance(role, State) for call in form.calls for role in call.roles):
        raise NotReplayable("its networks do not get the state as it is")
    form.weights = fitted_weights(form.rows(later), form.target(later))
    form.scaled = any(abs(scale - 1) > slack for scale, slack in form.scales(first))
    return form


def halves_equal(state: Tensor) -> bool:
    """Whether the second half of a batch repeats the first."""
    return len(state) % 2 == 0 and torch.equal(*state.chunk(2))


def _copies(states: Sequence[Tensor]) -> int:
    return 2 if all(halves_equal(state) for state in states) else 1


def _role(
    form: LoopForm, name: str, leaf: Any, later: Any, x: Tensor, before: Sequence[Call]
) -> Role:
    """The role of one argument; adds to the form's constants and times."""
    if not isinstance(leaf, Tensor):
        return _role_of_plain(form, name, leaf, later)
    if leaf.dtype != later.dtype:
        raise NotReplayable(f"{name} changes its dtype")
    if leaf is later or torch.equal(leaf, later):
        form.constants.append(leaf)
        return Constant(len(form.constants) - 1)
    state = state_in(leaf, x)
    if state is not None and state.dim is None:
        return state
    if state is not None:
        form.constants.append(leaf)
        return State(**{**vars(state), "number": len(form.constants) - 1})
    for j, call in enumerate(before):
        for k, output in enumerate(call.outputs):
            if output.shape == leaf.shape and torch.equal(output, leaf):
                return Output(j, k)
    if filled_with(leaf) is None or filled_with(later) is None:
        raise NotReplayable(f"{name} is neither the state, nor the time, nor always the same")
    form.times += 1
    dtype = leaf.dtype if leaf.is_floating_point() else torch.float32
    return Time(form.times - 1, tuple(leaf.shape), dtype)


def _role_of_plain(form: LoopForm, name: str, leaf: Any, later: Any) -> Role:
    if not isinstance(leaf, PLAIN):
        raise NotReplayable(f"{name} is a {type(leaf).__name__}, which may change between steps")
    if type(leaf) is type(later) and leaf == later:
        return Same(leaf)
    if filled_with(leaf) is None or filled_with(later) is None:
        raise NotReplayable(f"{name} changes from step to step")
    form.times += 1
    return Time(form.times - 1, None, torch.float64)
