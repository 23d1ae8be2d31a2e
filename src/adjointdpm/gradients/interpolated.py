"""Few vector-Jacobian products: the exact transpose of the sampler, with the network's part interpolated between a few nodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import InvalidInputError, UnsupportedError
from adjointdpm.gradients.base import GradientMethod
from adjointdpm.gradients.own_backward import BackwardSolve, solve_with
from adjointdpm.gradients.recomputed import Recomputation
from adjointdpm.plan import START, Instruction, NetworkCall, Update
from adjointdpm.problem import Problem
from adjointdpm.transpose import Costates, Pull, split_steps, transpose

# A call whose x̂_0 multistep coefficients of both signs take back to this share of their sizes tells little about its neighbours.
CANCELLING = 0.3


@dataclass(frozen=True)
class Interpolated(GradientMethod):
    """Gradient of the discrete sampler with M network VJPs instead of one a call; approximate for M below the number of calls.

    A sampler is a linear program but for its network calls, so its transpose needs the network only in
    w_k = α_k (∂x̂_0/∂x_k)ᵀ b_k/β_k, where b_k is the costate of x̂_0 at call k and β_k the sum of the coefficients that brought it there. If
    the network's Jacobian is smooth, w varies slowly in log ρ. The transposed program runs through every call; at M of them, the first and
    the last included, the network is asked, and w is guessed in between, in log ρ: extrapolated from the nodes behind to reach the next
    one, then interpolated by a parabola once that is known, which also gives the costate there anew; w of the node is scaled by its
    component along the one that the network was asked with. The extrapolation trusts the slope between the last two nodes, sample by
    sample, as far as that slope would have foretold the newest node: a network with a rough Jacobian gets a constant, a smooth one a line.
    Nodes are uniform in the mean of log ρ and the number of the call. Gradients for conditioning and weights are linear between nodes.
    A multistep sampler brings an x̂_0 to several steps, with coefficients of both signs: β is then taken from the costates at hand, and
    calls whose coefficients nearly cancel are no nodes for others.

    It follows the discrete sampler and not only the ODE: with M = calls it is exact. With N calls it costs N·F + M(F + B), and stores one
    graph and the inputs of M calls.

    Args:
        vjps: M, the number of network VJPs. A sampler with s calls a step is asked in whole steps: ⌊M/s⌋ of them, at least one. More than
            there are calls means all of them.

    Raises:
        InvalidInputError: `vjps` is not an int of at least 1.

    """

    vjps: int

    def __post_init__(self) -> None:
        if isinstance(self.vjps, bool) or not isinstance(self.vjps, int) or self.vjps < 1:
            raise InvalidInputError(f"Interpolated(vjps={self.vjps!r}): vjps must be an int of at least 1 network VJP")

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Sample, keeping the inputs of the nodes' calls; the transposed program runs in the backward pass."""
        if problem.plan.requires_grad:
            raise UnsupportedError("Interpolated gives no gradient with respect to the time grid; use Checkpoint(), or detach the grid")
        return solve_with(_Transpose(problem, self.vjps), problem)


@dataclass(frozen=True)
class _Asked:
    """A network call whose graph, or the recipe for it, is kept."""

    x: Tensor
    data: Tensor
    noise: Tensor


class _Transpose(BackwardSolve):
    def __init__(self, problem: Problem, vjps: int) -> None:
        super().__init__(problem)
        self.steps = split_steps(problem.plan)
        self.calls = [[i for i in step if isinstance(i, NetworkCall)] for step in self.steps]
        self.place = {call.data: (step, stage) for step, calls in enumerate(self.calls) for stage, call in enumerate(calls)}
        self.log_rho = _log_rho(problem)
        shares = _coefficients(problem, self.steps)
        self.beta = {data: share.sum().item() for data, share in shares.items()}
        self.cancelling = {data for data, share in shares.items() if abs(self.beta[data]) < CANCELLING * share.abs().sum().item()}
        # Calls of one stage are interpolated among themselves: those of a Runge–Kutta step do not lie on one curve.
        self.nodes = choose_nodes(_positions([-self.log_rho[calls[0].data] for calls in self.calls]), vjps // len(self.calls[0]))
        self.shares = self._shares()
        self.asked: dict[int, _Asked] = {}
        self.recompute = Recomputation()

    def first_call(self) -> Tensor:
        call = self.problem.plan.network_calls[0]
        output, asked = self._record(call, self.problem.start, alone=False)
        self.asked = {call.data: asked}
        return output

    def sample(self, first_output: Tensor) -> Tensor:
        first, last = self.problem.plan.network_calls[0], self.problem.plan.network_calls[-1]

        def evaluate(call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
            if call is first:
                asked = self.asked[call.data]
            elif self.place[call.data][0] in self.nodes:
                output, asked = self._record(call, x.detach().requires_grad_(), alone=call is last)
                self.check_captured(output, asked.x)
                self.asked[call.data] = asked
            else:
                return self.split(self.value(call, x), call, x)
            return asked.data.detach(), asked.noise.detach()

        with torch.no_grad():
            return self.problem.execute(evaluate)

    def _record(self, call: NetworkCall, x: Tensor, alone: bool) -> tuple[Tensor, _Asked]:
        with torch.enable_grad():
            # The last call is the first that the backward pass needs: its graph is the one that may be held anyway.
            output = self.network(x, call.time) if alone else self.recompute(self.network, x, call.time)
            return output, _Asked(x, *self.split(output, call, x))

    def costate(self, result: Tensor, gradient: Tensor, noise_wanted: bool) -> Tensor:
        costates: Costates = {self.problem.plan.result: gradient}
        known: dict[tuple[int, int], Tensor] = {}  # w at (step, stage)
        trust: dict[int, Tensor] = {}  # by stage: the share of the slope that extrapolation follows
        bases: dict[int, Tensor] = {}  # by call, the costate of x̂_0 that the network was asked with
        backwards = self.nodes[::-1]

        def ask(call: NetworkCall, data: Tensor | None, noise: Tensor | None) -> Tensor:
            pulled = self._ask(call, data, noise)
            step, stage = self.place[call.data]
            if self._defined(step, stage):
                through = pulled if noise is None else pulled - noise / call.sigma
                w = through * (call.alpha / self._weight(call, data, noise))
                bases[call.data] = _of_data(call, data, noise)
                behind = sorted(n for n, s in known if s == stage)[:2]
                if len(behind) == 2:
                    trust[stage] = _projection(w - known[behind[0], stage], self._slope(step, stage, behind, known)).clamp(0, 1)
                known[step, stage] = w
            return pulled

        def recall(call: NetworkCall, data: Tensor | None, noise: Tensor | None) -> Any:
            direct = 0.0 if noise is None else noise / call.sigma
            if call.alpha == 0:
                return direct
            step, stage = self.place[call.data]
            nodes = sorted(n for n, s in known if s == stage)
            if call.data in bases and step == nodes[0]:  # asked with the extrapolated costate; the one here is better
                known[step, stage] = known[step, stage] * _projection(_of_data(call, data, noise), bases.pop(call.data))
            w = sum(weight * known[node, stage] for node, weight in self._curve(step, stage, nodes))
            if stage in trust and step < nodes[0]:
                w = w + trust[stage] * self._slope(step, stage, nodes[:2], known)
            return direct + w * (self._weight(call, data, noise) / call.alpha)

        position = len(self.steps)
        for node in [*backwards, -1]:
            between, before = range(node + 1, position), dict(costates)
            reached = self._back(between, costates, recall)
            if node >= 0:
                reached += self._back(range(node, node + 1), costates, ask)
                if between and node != backwards[0]:
                    costates = before
                    reached = self._back(range(node, position), costates, recall)
            for step, costate in reached:
                self.problem.report_costate(step, costate)
            position = node
        return costates[START]

    def _back(self, steps: range, costates: Costates, pull: Pull) -> list[tuple[int, Tensor]]:
        """Transpose `steps`, the last first; for an observer, the costates of the states between steps that are complete then."""
        reached: list[tuple[int, Tensor]] = []
        for step in reversed(steps):
            end = self.steps[step][-1]
            assert isinstance(end, Update)
            self.reference = costates[end.output] * self.problem.schedule.alpha(self.problem.plan.grid[step + 1]).item()
            transpose(self.steps[step], costates, pull)
            if step > 0 and self.problem.observer is not None:
                state = self.steps[step - 1][-1]
                assert isinstance(state, Update)
                reached.append((step - 1, costates[state.output]))
        return reached

    def _ask(self, call: NetworkCall, data: Tensor | None, noise: Tensor | None) -> Tensor:
        asked = self.asked[call.data] if self.retain_graph else self.asked.pop(call.data)
        pairs = [(o, g) for o, g in ((asked.data, data), (asked.noise, noise)) if g is not None]
        outputs, cotangents = zip(*pairs, strict=True)
        pulled, *found = torch.autograd.grad(outputs, [asked.x, *self.wanted], cotangents, self.retain_graph, allow_unused=True)
        self.add(found, self.shares[call.data])
        return torch.zeros_like(asked.x) if pulled is None else pulled

    def _weight(self, call: NetworkCall, data: Tensor | None, noise: Tensor | None) -> Tensor:
        """β of a call for the costates at hand: the multiple of the costate of y after the step that b has, `[B, 1, …]`.

        A multistep method spreads b over costates of several steps, with coefficients of both signs where its steps are uneven.
        """
        beta = self.beta[call.data]
        ratio = _projection(_of_data(call, data, noise), self.reference) / beta
        return beta * torch.where(ratio < 0, ratio.clamp(max=-0.1), ratio.clamp(min=0.1))

    def _defined(self, step: int, stage: int) -> bool:
        call = self.calls[step][stage]
        return call.data not in self.cancelling and self.beta[call.data] != 0 and float(call.sigma) != 0

    def _line(self, step: int, stage: int, nodes: Sequence[int]) -> list[tuple[int, float]]:
        """The weights of the nodes in a linear interpolation in log ρ to this call; beyond the ends the nearest node alone."""
        usable = [n for n in nodes if self._defined(n, stage)]
        later, earlier = min((n for n in usable if n >= step), default=None), max((n for n in usable if n <= step), default=None)
        if later is None or earlier is None or later == earlier:
            return [(node, 1.0) for node in (later, earlier)[: 1 if later is not None else 2] if node is not None]
        share = self._between(step, stage, later, earlier)
        return [(later, share), (earlier, 1 - share)]

    def _curve(self, step: int, stage: int, nodes: Sequence[int]) -> list[tuple[int, float]]:
        """The same with a parabola through the second node behind, where there is one."""
        line = self._line(step, stage, nodes)
        further = min((n for n in nodes if n > line[0][0] and self._defined(n, stage)), default=None) if len(line) == 2 else None
        if further is None:
            return line
        points = [line[0][0], line[1][0], further]
        here, *at = (self.log_rho[self.calls[n][stage].data] for n in (step, *points))
        if len(set(at)) < 3:
            return line
        weights = [math.prod((here - q) / (p - q) for q in at if q != p) for p in at]
        return list(zip(points, weights, strict=True))

    def _slope(self, step: int, stage: int, behind: Sequence[int], known: dict[tuple[int, int], Tensor]) -> Tensor:
        """What a line through the last two nodes, the newest first, adds to the newest on the way to this step."""
        near, far = behind
        return (self._between(step, stage, near, far) - 1) * (known[near, stage] - known[far, stage])

    def _between(self, step: int, stage: int, a: int, b: int) -> float:
        """The weight of node `a` on a line in log ρ through nodes `a` and `b`."""
        here, at_a, at_b = (self.log_rho[self.calls[n][stage].data] for n in (step, a, b))
        return 0.5 if at_a == at_b else (here - at_b) / (at_a - at_b)

    def _shares(self) -> dict[int, float]:
        """By node call: what its gradient for the inputs is multiplied with, so that the sum over nodes is that over all calls."""
        shares = {call.data: 1.0 for node in self.nodes for call in self.calls[node]}
        for step, stage in self.place.values():
            if step not in self.nodes:
                for node, weight in self._line(step, stage, self.nodes):
                    call = self.calls[node][stage]
                    shares[call.data] += weight * self.beta[self.calls[step][stage].data] / self.beta[call.data]
        return shares


def choose_nodes(positions: Sequence[float], count: int) -> list[int]:
    """`count` distinct indices of increasing `positions`, nearest to uniform: the last, the first if there is a second, others."""
    count = min(max(1, count), len(positions))
    if count == 1:
        return [len(positions) - 1]
    chosen: list[int] = []
    for i in range(count):
        target = positions[0] + (positions[-1] - positions[0]) * i / (count - 1)
        candidates = range(chosen[-1] + 1 if chosen else 0, len(positions) - count + i + 1)
        chosen.append(min(candidates, key=lambda k: abs(positions[k] - target)))
    return chosen


def _positions(log_snr: Sequence[float]) -> list[float]:
    """The mean of log SNR and the number, each scaled to [0, 1].

    Uniform log SNR alone leaves long gaps among the noisy calls, which decide on the picture.
    """
    span, last = log_snr[-1] - log_snr[0] or 1.0, len(log_snr) - 1 or 1
    return [(value - log_snr[0]) / span + i / last for i, value in enumerate(log_snr)]


def _of_data(call: NetworkCall, data: Tensor | None, noise: Tensor | None) -> Tensor:
    """The costate of x̂_0 if ε is taken for what it is given the state, (x − α x̂_0)/σ."""
    if noise is None:
        assert data is not None
        return data
    through = noise * (-call.alpha / call.sigma)
    return through if data is None else data + through


def _projection(vector: Tensor, basis: Tensor) -> Tensor:
    """The multiple of `basis` that comes closest to `vector`, for each sample: [B, 1, …]."""
    products = [(basis * other).flatten(1).sum(1) for other in (vector, basis)]
    return (products[0] / products[1].clamp(min=torch.finfo(basis.dtype).tiny)).view(-1, *[1] * (basis.ndim - 1))


def _log_rho(problem: Problem) -> dict[int, float]:
    """Log ρ of every call; past the ends of the clock (no signal, no noise) one unit beyond the last finite value."""
    calls = problem.plan.network_calls
    values = torch.stack([problem.schedule.rho(call.time) for call in calls]).log()
    finite = values[values.isfinite()]
    return dict(zip([call.data for call in calls], values.clamp(finite.min() - 1, finite.max() + 1).tolist(), strict=True))


def _coefficients(problem: Problem, steps: Sequence[Sequence[Instruction]]) -> dict[int, Float[Tensor, " steps"]]:
    """By call, the parts of β: the costate of its x̂_0 if ∂L/∂y were 1 after one step, and ∂x̂_0/∂y were 1 within it (y = x/α)."""
    plan = problem.plan
    none = torch.zeros(len(steps), dtype=torch.float64)
    found = {call.data: none for call in plan.network_calls}  # what a call's results are not used for stays 0

    def pull(call: NetworkCall, data: Tensor | None, noise: Tensor | None) -> Tensor:
        alpha, sigma = float(call.alpha), float(call.sigma)
        direct = noise / sigma if noise is not None and sigma != 0 else none
        found[call.data] = (none if data is None else data) - alpha * direct
        return direct + (found[call.data] / alpha if alpha != 0 else none)

    costates: Costates = {}
    for k in reversed(range(len(steps))):
        end = steps[k][-1]
        assert isinstance(end, Update)
        costates[end.output] = none.index_fill(0, torch.tensor(k), 1 / problem.schedule.alpha(plan.grid[k + 1]).item())
        transpose(steps[k], costates, pull)
    return found
