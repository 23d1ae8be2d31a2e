"""Gradients from few vector-Jacobian products, interpolated between a few network calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.engine.gradients.autograd.custom_backward import BackwardSolve, solve_with
from adjointdpm.engine.gradients.autograd.recompute import Recomputation
from adjointdpm.engine.gradients.base import GradientMethod
from adjointdpm.engine.gradients.few_vjps.error_estimate import ErrorEstimate
from adjointdpm.engine.gradients.few_vjps.jacobian_model import JacobianModel
from adjointdpm.engine.gradients.few_vjps.node_placement import Nodes
from adjointdpm.engine.gradients.few_vjps.parameter_sums import Quadrature
from adjointdpm.engine.numerics import at_least_float32
from adjointdpm.engine.plan import START, Costates, NetworkCall, Pull, Update, transpose
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.stats import add_error_estimate, running
from adjointdpm.errors import InvalidInputError, UnsupportedError

Watch = Callable[[Float[Tensor, " batch"]], None]


@dataclass(frozen=True)
class Interpolated(GradientMethod):
    """Gradient of the discrete sampler with M network VJPs in place of one for each call.

    It is approximate if M is smaller than the number of calls, and exact if it is not. Apart from
    its network calls a sampler is a linear program. So its transpose needs the network only in
    Jᵀ b, where J = ∂x̂_0/∂y (y = x/α) at a call and b is the costate of its x̂_0. The transposed
    program runs through every call. At M of them, the nodes, the network computes Jᵀ b; the first
    and the last call are among them. In between Jᵀ b is guessed (`JacobianModel`). It is first
    extrapolated from the nodes behind to reach the next node. Once that is known, it is
    interpolated, which also corrects the costate there. Gradients for conditioning and weights are
    sums over all calls, from their terms at the nodes (`Quadrature`). Nodes are uniform in the mean
    of log ρ and the number of the call.

    With N calls it costs N·F + M(F + B). It stores one graph, the inputs of M calls, a state for
    every call between two nodes, and 2s + 1 gradients of what is learned, with s calls a step.

    Its error can be estimated without further network calls (`ErrorEstimate`). Within a `with
    adjointdpm.stats() as s:` block every backward pass adds an estimate to `s.error_estimates`.

    Args:
        vjps: M, the number of network VJPs. With a sampler of s calls a step, whole steps are
            nodes: ⌊M/s⌋ of them, at least one. More than there are calls means all of them.

    Raises:
        InvalidInputError: `vjps` is not an int of at least 1.

    """

    vjps: int

    def __post_init__(self) -> None:
        if isinstance(self.vjps, bool) or not isinstance(self.vjps, int) or self.vjps < 1:
            raise InvalidInputError(
                f"Interpolated(vjps={self.vjps!r}): vjps must be an int of at least 1 network VJP"
            )

    def solve(self, problem: Problem, watch: Watch | None = None) -> Float[Tensor, "batch *shape"]:
        """Sample and keep the inputs at the nodes; the backward pass runs the transposed program.

        `watch`, if given, gets the estimated relative error of each sample's gradient in every
        backward pass; otherwise `stats` does.
        """
        if problem.plan.requires_grad:
            raise UnsupportedError(
                "Interpolated gives no gradient with respect to the time grid; use Checkpoint(), "
                "or detach the grid"
            )
        return solve_with(_Transpose(problem, self.vjps, watch), problem)


@dataclass(frozen=True)
class _Asked:
    """A network call whose graph is kept, or recomputed when it is needed."""

    x: Tensor
    data: Tensor
    noise: Tensor


class _Transpose(BackwardSolve):
    def __init__(self, problem: Problem, vjps: int, watch: Watch | None) -> None:
        super().__init__(problem)
        self.watch = watch
        self.nodes = Nodes(problem, vjps)
        self.asked: dict[int, _Asked] = {}
        network = problem.denoiser.network
        self.recompute = Recomputation(network if isinstance(network, nn.Module) else None)

    def first_call(self) -> Tensor:
        call = self.problem.plan.network_calls[0]
        output, asked = self._record(call, self.problem.start, alone=False)
        self.asked = {call.data: asked}
        return output

    def sample(self) -> Tensor:
        first, last = self.problem.plan.network_calls[0], self.problem.plan.network_calls[-1]

        def evaluate(call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
            if call is first:
                asked = self.asked[call.data]
            elif self.nodes.place[call.data][0] in self.nodes.chosen:
                output, asked = self._record(call, x.detach().requires_grad_(), alone=call is last)
                self.check_captured(output, asked.x)
                self.asked[call.data] = asked
            else:
                return self.evaluate(call, x)
            return asked.data.detach(), asked.noise.detach()

        with torch.no_grad():
            return self.problem.execute(evaluate)

    def _record(self, call: NetworkCall, x: Tensor, alone: bool) -> tuple[Tensor, _Asked]:
        with torch.enable_grad():
            # The backward pass needs the last call first, so keeping its graph costs no memory.
            output = (
                self.network(x, call.time) if alone else self.recompute(self.network, x, call.time)
            )
            return output, _Asked(x, *self.problem.split(output, call, x))

    def costate(self, result: Tensor, gradient: Tensor, noise_wanted: bool) -> Tensor:
        costates: Costates = {self.problem.plan.result: gradient}
        model = JacobianModel(self.nodes, result)
        quadrature = Quadrature(model, self._groups(len(gradient)), self._add_weighted)
        watch = self.watch or (add_error_estimate if running else None)
        estimate = ErrorEstimate(model) if watch is not None else None

        def ask(call: NetworkCall, data: Tensor | None, noise: Tensor | None) -> Tensor:
            pulled, found = self._ask(call, data, noise)
            quadrature.asked(*self.nodes.place[call.data], found)
            if call.alpha != 0 and call.sigma != 0:
                direct = 0.0 if noise is None else noise / call.sigma
                model.learn(call, _of_data(call, data, noise), (pulled - direct) * call.alpha)
            return pulled

        def recall(call: NetworkCall, data: Tensor | None, noise: Tensor | None) -> Tensor:
            product = model.product(call, _of_data(call, data, noise))
            direct = torch.zeros_like(product) if noise is None else noise / call.sigma
            return direct if call.alpha == 0 else direct + product / call.alpha

        position = len(self.nodes.steps)
        backwards = self.nodes.chosen[::-1]
        for node in [*backwards, -1]:
            between, before = range(node + 1, position), dict(costates)
            reached = self._back(between, costates, recall)
            if node >= 0:
                reached += self._back(range(node, node + 1), costates, ask)
                if between and node != backwards[0]:
                    predicted, costates = costates, before
                    reached = self._back(range(node, position), costates, recall)
                    if estimate is not None:
                        estimate.corrected(self._state_before(node), predicted, costates)
                    del predicted
            quadrature.settle(node)
            for step, costate in reached:
                self.problem.report_costate(step, costate)
            position = node
        if watch is not None and estimate is not None:
            watch(estimate.relative(len(backwards) == len(self.nodes.steps), gradient))
        return costates[START]

    def _state_before(self, step: int) -> int:
        """The register of the state that a step starts from."""
        if step == 0:
            return START
        update = self.nodes.steps[step - 1][-1]
        assert isinstance(update, Update)
        return update.output

    def _back(self, steps: range, costates: Costates, pull: Pull) -> list[tuple[int, Tensor]]:
        """Transpose `steps`, the last first.

        If there is an observer, return the costates of the states between the steps.
        """
        reached: list[tuple[int, Tensor]] = []
        for step in reversed(steps):
            transpose(self.nodes.steps[step], costates, pull)
            if step > 0 and self.problem.observer is not None:
                reached.append((step - 1, costates[self._state_before(step)]))
        return reached

    def _ask(
        self, call: NetworkCall, data: Tensor | None, noise: Tensor | None
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """The costate of x from the network, and the gradients of its inputs."""
        asked = self.asked[call.data] if self.retain_graph else self.asked.pop(call.data)
        pairs = [
            (o, g)
            for o, g in ((asked.data, data), (asked.noise, noise))
            if g is not None and o.requires_grad
        ]
        if not pairs:  # the network's output does not depend on its inputs
            return torch.zeros_like(asked.x), [None] * len(self.wanted)
        outputs, cotangents = zip(*pairs, strict=True)
        found = torch.autograd.grad(
            outputs, [asked.x, *self.wanted], cotangents, self.retain_graph, allow_unused=True
        )
        pulled, *found = self.recompute.keep(found)
        return torch.zeros_like(asked.x) if pulled is None else pulled, found

    def _groups(self, batch: int) -> list[tuple[list[int], bool]]:
        """Groups of `wanted` that share one length: each input by itself, all weights together.

        Each group has its indices, and whether it holds one row per sample.
        """
        own = {id(tensor) for tensor in self.problem.inputs}
        groups = [
            ([i], tensor.ndim > 0 and len(tensor) == batch)
            for i, tensor in enumerate(self.wanted)
            if id(tensor) in own
        ]
        weights = [i for i, tensor in enumerate(self.wanted) if id(tensor) not in own]
        return [*groups, (weights, False)] if weights else groups

    def _add_weighted(self, gradients: Sequence[Tensor | None], weights: Sequence[Tensor]) -> None:
        for i, (gradient, weight) in enumerate(zip(gradients, weights, strict=True)):
            if gradient is not None:
                dtype = at_least_float32(gradient)  # weights may be far from 1
                factor = weight.to(gradient.device, dtype)
                factor = factor.view(-1, *[1] * (gradient.ndim - 1)) if weight.ndim else factor
                total = self.totals[i]
                if total is None:
                    self.totals[i] = (gradient.to(dtype) * factor).to(gradient.dtype)
                elif gradient.dtype == dtype:
                    total.addcmul_(gradient, factor)  # all weights in one pass over memory
                else:
                    total.add_(gradient.to(dtype) * factor)


def _of_data(call: NetworkCall, data: Tensor | None, noise: Tensor | None) -> Tensor:
    """The costate of x̂_0 when ε = (x − α x̂_0)/σ is replaced by what it is given the state."""
    if noise is None:
        assert data is not None
        return data
    through = noise * (-call.alpha / call.sigma)
    return through if data is None else data + through
