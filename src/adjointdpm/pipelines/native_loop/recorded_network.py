"""The network of a recorded run as a function of state and time."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_leaves, tree_unflatten

from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.pipelines.native_loop.argument_roles import Inputs, Role
from adjointdpm.pipelines.native_loop.guidance_weights import combined, output_rows


@dataclass(frozen=True)
class CallForm:
    """How one network is called in a step.

    Attributes:
        network: its number.
        spec: of the containers that hold its arguments.
        roles: of the arguments, in the order of `spec`.
        counts: whether its output is part of what the scheduler gets.

    """

    network: int
    spec: TreeSpec
    roles: tuple[Role, ...]
    counts: bool


class RecordedNetwork(nn.Module):
    """A pipeline's network calls of one step, as `network(x, t, cond)`.

    It holds no tensor of the run: `cond` does. So it can be kept from run to run.

    Args:
        networks: the pipeline's own.
        calls: what happens in a step, in order.
        times: how many places of the arguments hold a time.
        state: makes a context in which the networks are as they were in the pipeline's loop.

    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        calls: Sequence[CallForm],
        times: int,
        state: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.calls, self.times, self.state = tuple(calls), times, state

    def forward(
        self, x: Float[Tensor, "batch *shape"], t: Float[Tensor, " batch"], cond: list[Tensor]
    ) -> Float[Tensor, "batch *shape"]:
        """What the scheduler gets at the state `x`.

        Args:
            x: in the frame that the networks see.
            t: in the schedule's unit, the same for all samples.
            cond: the run's times, increasing; the weights of the outputs; for each place of a time
                its values at the run's times; then the constants.

        """
        times, weights, values = cond[0], cond[1], cond[2 : 2 + self.times]
        seen = [interpolated(times, column, t[0]) for column in values]
        outputs: list[list[Tensor]] = []
        rows: list[Tensor] = []
        with self.state():
            for call in self.calls:
                inputs = Inputs(x, seen, cond[2 + self.times :], outputs)
                leaves = [role.make(inputs) for role in call.roles]
                args, kwargs = tree_unflatten(leaves, call.spec)
                found = self.networks[call.network](*args, **kwargs)
                outputs.append([o for o in tree_leaves(found) if isinstance(o, Tensor)])
                if call.counts:
                    part = output_rows(outputs[-1], x)
                    assert part is not None
                    rows.append(part.to(x.dtype))
        return combined(torch.cat(rows), weights)


class RecordedDenoiser(Denoiser):
    """A denoiser whose network casts its arguments itself, to the dtypes that the pipeline uses."""

    def _network_dtype(self, x: Tensor) -> None:
        return None


def interpolated(
    times: Float[Tensor, " n"], values: Float[Tensor, " n"], t: Float[Tensor, ""]
) -> Float[Tensor, ""]:
    """The value at `t`: exact at the given times, on a line between and beyond them."""
    t = t.to(times.dtype)
    left = (torch.searchsorted(times, t, right=True) - 1).clamp(0, len(times) - 2)
    share = (t - times[left]) / (times[left + 1] - times[left])
    return values[left] + share * (values[left + 1] - values[left])
