"""How the arguments of a network follow from the state and the time of a sampler.

Each tensor or number among them has a role: it holds the state, the time, what another network
returned in the same step, or something that stays the same from step to step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adjointdpm.pipelines.native_loop.guidance_weights import wide

PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device, torch.Size)
# Units in the last place of a dtype, and of float32, that count as equal.
ROUNDING, ROUNDING_OF_FLOAT32 = 2, 16


@dataclass(frozen=True)
class Inputs:
    """What the arguments of one network call are made of.

    Attributes:
        state: x, in the frame that the network sees.
        time: the value that the pipeline's network gets for this time, by the number of its place.
        constants: tensors that stay the same.
        outputs: what the networks that were called before it in this step returned.

    """

    state: Tensor
    times: Sequence[Tensor]
    constants: Sequence[Tensor]
    outputs: Sequence[Sequence[Tensor]]


@dataclass(frozen=True)
class Same:
    """Something that is no tensor, and the same in every call."""

    value: Any

    def make(self, inputs: Inputs) -> Any:
        return self.value


@dataclass(frozen=True)
class Constant:
    """A tensor that is the same in every call; its number among the constants."""

    number: int

    def make(self, inputs: Inputs) -> Tensor:
        return inputs.constants[self.number]


@dataclass(frozen=True)
class Time:
    """A number or a filled tensor that depends on the time alone; its number among the times."""

    number: int
    shape: tuple[int, ...] | None  # None: a Python number
    dtype: torch.dtype

    def make(self, inputs: Inputs) -> Any:
        value = inputs.times[self.number]
        if self.shape is None:
            return value.item()
        return value.to(self.dtype).expand(self.shape).clone()


@dataclass(frozen=True)
class Output:
    """What an earlier network call of the same step returned, such as a ControlNet."""

    call: int
    leaf: int

    def make(self, inputs: Inputs) -> Tensor:
        return inputs.outputs[self.call][self.leaf]


@dataclass(frozen=True)
class State:
    """A tensor that holds the state.

    Attributes:
        dtype: that the network gets it in.
        shape: of the part that holds it.
        copies: how often the batch stands in it, one after the other.
        row: the one sample that it holds, None if all.
        dim: the dimension in which something else stands beside it, None if nothing does.
        before, after: how many entries of that dimension are something else.
        number: of the constant that holds it, -1 where there is none.

    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    copies: int = 1
    row: int | None = None
    dim: int | None = None
    before: int = 0
    after: int = 0
    number: int = -1

    def make(self, inputs: Inputs) -> Tensor:
        x = inputs.state if self.row is None else inputs.state[self.row]
        part = (torch.cat([x] * self.copies) if self.copies > 1 else x).to(self.dtype)
        part = part.reshape(self.shape)
        if self.dim is None:
            return part
        whole, size = inputs.constants[self.number], self.shape[self.dim]
        first = whole.narrow(self.dim, 0, self.before)
        return torch.cat(
            [first, part, whole.narrow(self.dim, self.before + size, self.after)], self.dim
        )

    def part(self, leaf: Tensor) -> Tensor:
        """The part of `leaf` that holds the state."""
        if self.dim is None:
            return leaf
        return leaf.narrow(self.dim, self.before, self.shape[self.dim])

    def scale(self, leaf: Tensor, x: Tensor) -> float | None:
        """The c for which `leaf` holds c times the state; None if there is none."""
        part = wide(self.part(leaf)).flatten()
        x = wide(x if self.row is None else x[self.row])
        x = (torch.cat([x] * self.copies) if self.copies > 1 else x).flatten()
        c = float(part @ x / (x @ x).clamp(min=1e-30))
        close = (part - c * x).abs().max() <= rounding(leaf.dtype) * abs(c) * x.abs().max()
        return c if close and c > 0 else None

    def same_rest(self, leaf: Tensor, first: Tensor) -> bool:
        """Whether what stands beside the state is the same as in `first`."""
        if self.dim is None:
            return True
        size = self.shape[self.dim]
        return all(
            torch.equal(leaf.narrow(self.dim, start, n), first.narrow(self.dim, start, n))
            for start, n in ((0, self.before), (self.before + size, self.after))
        )


Role = Same | Constant | Time | Output | State


def rounding(dtype: torch.dtype) -> float:
    """The relative difference that counts as rounding; pipelines compute in float32 at best."""
    single = ROUNDING_OF_FLOAT32 * torch.finfo(torch.float32).eps
    return max(ROUNDING * torch.finfo(dtype).eps, single)


def state_in(leaf: Tensor, x: Tensor) -> State | None:
    """How `leaf` holds the state `x` of a batch, up to a factor; None if it does not."""
    if not leaf.is_floating_point() or leaf.ndim == 0:
        return None
    batch, found = len(x), []
    copies, rest = divmod(len(leaf), batch)
    if rest == 0 and leaf.numel() == copies * x.numel():
        found.append(State(leaf.dtype, tuple(leaf.shape), copies))
    if leaf.numel() * batch == x.numel() and batch > 1:
        found += [State(leaf.dtype, tuple(leaf.shape), row=row) for row in range(batch)]
    if rest == 0 and leaf.ndim == x.ndim:
        longer = [d for d in range(1, x.ndim) if leaf.shape[d] != x.shape[d]]
        if len(longer) == 1 and leaf.shape[longer[0]] > x.shape[longer[0]]:
            other = leaf.shape[longer[0]] - x.shape[longer[0]]
            shape = (len(leaf), *x.shape[1:])
            found += [
                State(leaf.dtype, shape, copies, None, longer[0], *ends)
                for ends in ((0, other), (other, 0))
            ]
    return next((state for state in found if state.scale(leaf, x) is not None), None)


def filled_with(leaf: Any) -> float | None:
    """The number that a leaf is filled with; None if it holds several, or is no number."""
    if isinstance(leaf, Tensor):
        if leaf.numel() == 0 or leaf.requires_grad or leaf.is_complex():
            return None
        low, high = leaf.min().item(), leaf.max().item()
        return float(low) if low == high else None
    return float(leaf) if type(leaf) in (int, float) else None
