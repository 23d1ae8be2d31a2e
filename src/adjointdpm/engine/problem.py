"""One sampling problem: what a gradient method needs to solve and differentiate it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.engine.inplace_changes import change_counts, check_unchanged
from adjointdpm.engine.numerics import at_least_float32
from adjointdpm.engine.plan import Evaluate, NetworkCall, Plan
from adjointdpm.engine.samplers.base import Sampler
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.engine.tree import Tree, leaves, tree_map
from adjointdpm.errors import InvalidInputError
from adjointdpm.support.torch_modes import call_keeping_modes

Callback = Callable[[int, float, Tensor, Tensor], None]
COPY = (
    "the callback changed a tensor of the solver in place; copy what it is given before changing it"
)
# The denoiser, or a stand-in for it: (x, t, cond, null_cond, guidance_scale) -> output.
Network = Callable[..., Tensor]


@runtime_checkable
class SamplingObserver(Protocol):
    """A callback that also sees the backward pass: an object with these two methods.

    In the backward pass it sees the costate of every state, from the last step to the first, and
    then that of x_T. A costate is the gradient of the loss with respect to the state alone. What a
    sampler carries along besides the state is held fixed: the former outputs of a multistep method,
    the second state of `ReversibleEuler`. Costates are as exact as the gradient method.

    States that no gradient passes through are left out: those before the first tensor that requires
    grad, and x_T if the noise requires none. `Adjoint` with a grid of its own reports only the
    times that are also in the sampler's grid.

    The tensors belong to the solver: copy them before changing them.
    """

    def __call__(self, step: int, t: float, x: Tensor, denoised: Tensor) -> None:
        """See the state x that `step` (counted from 0) reached at time t, and the x̂_0 it used."""
        ...

    def backward(self, step: int, t: float, costate: Tensor) -> None:
        """See ∂L/∂x at the state that `step` reached at time t; step −1 is x_T."""
        ...


@dataclass(frozen=True)
class Problem:
    """Checked input of `sample`, with the sampler's plan."""

    denoiser: Denoiser
    schedule: NoiseSchedule
    sampler: Sampler
    plan: Plan
    start: Float[Tensor, "batch *shape"]  # x_T
    cond: Tree
    null_cond: Tree
    guidance_scale: float | Tensor | None = None  # None: the denoiser's own
    callback: Callback | None = None

    @property
    def observer(self) -> SamplingObserver | None:
        """The callback, if it wants to see the costates."""
        return self.callback if isinstance(self.callback, SamplingObserver) else None

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors that the network gets besides x and t."""
        return [*leaves(self.cond), *leaves(self.null_cond), *leaves(self.guidance_scale)]

    def detached(self) -> "Problem":
        """The same problem on detached inputs, so that the network's graph ends in them.

        They require grad where the originals do.
        """

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().requires_grad_(tensor.requires_grad)

        cond, null_cond, scale = (
            tree_map(leaf, tree) for tree in (self.cond, self.null_cond, self.guidance_scale)
        )
        return replace(
            self, start=leaf(self.start), cond=cond, null_cond=null_cond, guidance_scale=scale
        )

    def predict(
        self, x: Float[Tensor, "batch *shape"], t: Tensor, network: Network | None = None
    ) -> Float[Tensor, "batch *shape"]:
        """The guided output of the denoiser, or of `network`, at the state x and time t."""
        network = self.denoiser if network is None else network
        t = self.network_time(t, x)
        return network(x, t, self.cond, self.null_cond, self.guidance_scale)

    def evaluate(
        self,
        call: NetworkCall,
        x: Float[Tensor, "batch *shape"],
        network: Network | None = None,
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, "batch *shape"]]:
        """(x̂_0, ε) at the state x and the time of `call`."""
        return self.split(self.predict(x, call.time, network), call, x)

    def split(
        self, output: Tensor, call: NetworkCall, x: Tensor
    ) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, "batch *shape"]]:
        """(x̂_0, ε) from the network's output at `call`."""
        return self.denoiser.split(output, x, call.alpha, call.sigma)

    def run(self, network: Network | None = None) -> Float[Tensor, "batch *shape"]:
        """Execute the plan with the denoiser, or with `network` in its place."""
        return self.execute(lambda call, x: self.evaluate(call, x, network))

    def execute(self, evaluate: Evaluate) -> Float[Tensor, "batch *shape"]:
        """Execute the plan; the user's callback sees the state after every step."""

        def report(step: int, x: Tensor, denoised: Tensor) -> None:
            if self.callback is not None:
                before = change_counts((x, denoised))
                given = (step, self._time(step), x, denoised)
                call_keeping_modes(self.callback, "the callback", InvalidInputError, *given)
                check_unchanged((x, denoised), before, COPY)
            watch(step, x)

        def watch(step: int, x: Tensor) -> None:
            if self.observer is not None and x.requires_grad and torch.is_grad_enabled():
                x.register_hook(lambda costate: self.report_costate(step, costate))

        start = self.start
        if self.observer is not None:
            start = start.view_as(start)  # a hook on the user's own tensor would outlive this solve
            watch(-1, start)
        return self.plan.run(evaluate, start, self.sampler.draw, report)

    def report_costate(self, step: int, costate: Tensor) -> None:
        """Report ∂L/∂x at the state that `step` reached to the observer, if there is one."""
        if self.observer is not None:
            before = change_counts((costate,))
            # The detached tensor shares the count of changes.
            self.observer.backward(step, self._time(step), costate.detach())
            check_unchanged((costate,), before, COPY)

    def _time(self, step: int) -> float:
        return self.plan.grid[step + 1].item()

    def network_time(self, t: Tensor, x: Tensor) -> Float[Tensor, " batch"]:
        """The scalar time `t` as the network gets it: one per sample, on the device of x.

        The dtype is float32 at least, since bfloat16 cannot hold t = 999.
        """
        # A blocking copy would wait for all work queued before it.
        return t.to(x.device, at_least_float32(x), non_blocking=True).expand(len(x))
