"""The base of gradient methods with a backward pass of their own.

They sample without a graph; one autograd node stands for the whole solve.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.gradients.autograd.captured_tensors import (
    REMEDY,
    captured_leaves,
    check_wanted,
    unknown_leaves,
)
from adjointdpm.engine.gradients.autograd.managed_weights import who_manages
from adjointdpm.engine.gradients.autograd.replayed_randomness import Draws
from adjointdpm.engine.inplace_changes import BETWEEN, change_counts, check_unchanged
from adjointdpm.engine.plan import NetworkCall
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.torch_internals import backward_retains_graph
from adjointdpm.errors import CapturedTensorError, UnsupportedError


class BackwardSolve(ABC):
    """One solve: samples forwards, and returns the gradients of all its inputs.

    Attributes:
        problem: the problem on detached inputs, so that the network's graph ends in them.
        inputs: every tensor besides x_T that may need a gradient: the problem's inputs, then
            weights and captured tensors.
        wanted: the inputs that require grad.
        totals: the gradients of `wanted` so far.
        draws: the random numbers that the network drew in the forward pass.
        retain_graph: whether another backward pass may follow the running one.

    """

    retain_graph = False

    def __init__(self, problem: Problem) -> None:
        self.problem = problem.detached()
        self.problem.start.requires_grad_()
        self.inputs: list[Tensor] = []
        self.wanted: list[Tensor] = []
        self.totals: list[Tensor | None] = []
        self.tensors: list[Tensor] = []  # whose values the backward pass needs
        self.versions: list[int] = []
        self.draws = Draws(problem.start.device, problem.denoiser)
        self._first_value: Tensor | None = None
        device = problem.start.device.type
        self._autocast = (
            device,
            torch.get_autocast_dtype(device),
            torch.is_autocast_enabled(device),
        )

    @abstractmethod
    def sample(self) -> Float[Tensor, "batch *shape"]:
        """Return x_0, without a graph; call the network through `value` or `evaluate`."""

    @abstractmethod
    def costate(
        self, result: Tensor, gradient: Tensor, noise_wanted: bool
    ) -> Float[Tensor, "batch *shape"]:
        """Return ∂L/∂x_T from `gradient` = ∂L/∂x_0.

        On the way, `add` the gradients of the inputs, and pass the costates of the states in
        between to `problem.report_costate`. Without `noise_wanted` the result is not used.
        """

    def first_call(self) -> Tensor:
        """The network's output at the first call, with a graph to look for captured tensors in.

        The value is kept for `value`, so that the network is not called again for it.
        """
        call = self.problem.plan.network_calls[0]
        with self.draws.recorded(call.data):
            output = self.network(self.problem.start, call.time)
        self._first_value = output.detach()
        return output

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        """The network's guided output."""
        return self.problem.predict(x, t)

    def evaluate(self, call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x̂_0, ε) at `call` in the forward pass, without a graph."""
        return self.problem.split(self.value(call, x), call, x)

    def value(self, call: NetworkCall, x: Tensor) -> Tensor:
        """The network's guided output at `call` in the forward pass, without a graph.

        Raises:
            CapturedTensorError: the network is a function, and uses a tensor here that it did not
                use in the first call.

        """
        if self._first_value is not None:  # this is the first call
            output, self._first_value = self._first_value, None
            return output
        with self.draws.recorded(call.data):
            if isinstance(self.problem.denoiser.network, nn.Module):
                with torch.no_grad():
                    return self.network(x, call.time)
            # Only a graph tells what a function captures: search it, then drop it.
            (output,), found = captured_leaves(lambda: (self.network(x, call.time),), self.inputs)
        self._refuse(found)
        assert output is not None
        return output

    def check_captured(self, output: Tensor, x: Tensor) -> None:
        """Check that the graph of `output` ends in the state `x` and in `inputs` only.

        Raises:
            CapturedTensorError: it ends in a tensor that the first call did not use.

        """
        # All parameters, since some may have been made to require grad after sampling.
        self._refuse(
            unknown_leaves((output,), [x, *self.inputs, *self.problem.denoiser.parameters()])
        )

    def _refuse(self, found: list[Tensor]) -> None:
        if found:
            raise CapturedTensorError(
                f"the denoiser uses a captured tensor of shape {tuple(found[0].shape)} that "
                "requires grad, but not at its first time; this gradient method looks for such "
                f"tensors in the first call: {REMEDY}"
            )

    def add(self, gradients: Sequence[Tensor | None], weight: float) -> None:
        """Add `weight` times the gradients of `wanted` to the totals."""
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                total = self.totals[i]
                self.totals[i] = (
                    gradient * weight if total is None else total.add_(gradient, alpha=weight)
                )

    def solve(self, result: Tensor, gradient: Tensor, noise_wanted: bool) -> list[Tensor | None]:
        """Gradients for x_T and every input, None where none is wanted.

        Raises:
            ChangedTensorError: one of them has been changed in place since.

        """
        check_unchanged(self.tensors, self.versions, BETWEEN)
        check_wanted(self.wanted)
        self.totals = [None] * len(self.wanted)
        with torch.autocast(self._autocast[0], dtype=self._autocast[1], enabled=self._autocast[2]):
            gradient = gradient.to(result.dtype)
            self.problem.report_costate(self.problem.plan.steps - 1, gradient)
            a = self.costate(result, gradient, noise_wanted)
        if noise_wanted:
            self.problem.report_costate(-1, a)
        found = {id(tensor): total for tensor, total in zip(self.wanted, self.totals, strict=True)}
        return [a if noise_wanted else None, *(found.get(id(tensor)) for tensor in self.inputs)]


def solve_with(backward: BackwardSolve, problem: Problem) -> Float[Tensor, "batch *shape"]:
    """x_0, attached through `backward` to the graph of all that requires grad in `problem`.

    Raises:
        CapturedTensorError: the network uses a tensor computed outside of it that requires grad.
        UnsupportedError: a library manages the network's weights by hooks, which need autograd.

    """
    if not torch.is_grad_enabled():
        return problem.run()
    if (library := who_manages(problem.denoiser)) is not None:
        raise UnsupportedError(
            f"{library} manages the network's weights by hooks, which a gradient method with a "
            "backward pass of its own goes past: its gradients would be wrong; use Checkpoint() or "
            "Backprop()"
        )
    parameters = [p for p in problem.denoiser.parameters() if p.requires_grad]
    own = backward.problem.inputs
    _, captured = captured_leaves(
        lambda: (backward.first_call(),), [backward.problem.start, *own, *parameters]
    )
    backward.inputs = [*own, *parameters, *captured]
    backward.wanted = [tensor for tensor in backward.inputs if tensor.requires_grad]
    tensors = [problem.start, *problem.inputs, *parameters, *captured]
    if not any(tensor.requires_grad for tensor in tensors):
        return backward.sample()
    frozen = [p for p in problem.denoiser.parameters() if not p.requires_grad]
    backward.tensors = [*tensors, *frozen]
    backward.versions = change_counts(backward.tensors)
    return _Solve.apply(backward, *tensors)  # pyright: ignore[reportReturnType]


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backward: BackwardSolve, *tensors: Tensor) -> Tensor:
        ctx.backward_solve = backward
        result = backward.sample()
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "create_graph=True asks for a gradient that can be differentiated again, which "
                "this gradient method cannot give; use Checkpoint() or Backprop()"
            )
        (result,) = ctx.saved_tensors
        ctx.backward_solve.retain_graph = backward_retains_graph()
        return (None, *ctx.backward_solve.solve(result, gradient, ctx.needs_input_grad[1]))
