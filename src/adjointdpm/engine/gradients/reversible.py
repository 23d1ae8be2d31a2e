"""Exact gradients without stored states, for a sampler that can be run backwards."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients.autograd.custom_backward import BackwardSolve, solve_with
from adjointdpm.engine.gradients.base import GradientMethod
from adjointdpm.engine.numerics import finest_dtype, positive
from adjointdpm.engine.plan import NetworkCall
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.samplers.reversible import ReversibleEuler
from adjointdpm.errors import ReversalError, UnsupportedError


@dataclass(frozen=True)
class Reversible(GradientMethod):
    """Exact gradient without stored states, for `ReversibleEuler`.

    The states are recomputed by running the sampler backwards (McCallum and Foster 2024, arXiv
    2410.11648). This holds one network graph and three latents for any number of steps, and does
    N_calls (2F + B) network work. The recomputed states differ from those of the forward pass by
    rounding, multiplied by 1/coupling at every step. So the states are in float64 (a callback sees
    that too), whatever the network's dtype. The network then gets the same inputs again, nearly
    always to the bit. The state that arrives at the noise is compared with the noise.

    Raises:
        UnsupportedError: another sampler, or a grid that requires grad.
        ReversalError: in the backward pass, the state that came back is not the one that the
            sampler started from.

    """

    def solve(self, problem: Problem) -> Float[Tensor, "batch *shape"]:
        """Sample without a graph, keeping the second state of the end."""
        if not isinstance(problem.sampler, ReversibleEuler):
            raise UnsupportedError(
                f"Reversible needs sampler=ReversibleEuler(), not {problem.sampler!r}, whose steps "
                f"cannot be run backwards"
            )
        if problem.plan.requires_grad:
            raise UnsupportedError(
                "Reversible gives no gradient with respect to the time grid; use Checkpoint(), or "
                "detach the grid"
            )
        return solve_with(_Backward(problem, problem.sampler), problem)


class _Backward(BackwardSolve):
    """Runs the steps backwards, with the costates of y and z.

    A step is y' = c y + (1 − c) z + h ε(z), z' = z + h ε(y').
    """

    def __init__(self, problem: Problem, sampler: ReversibleEuler) -> None:
        self.dtype = problem.start.dtype
        super().__init__(replace(problem, start=problem.start.to(finest_dtype(problem.start))))
        self.coupling, self.gapped = sampler.coupling, sampler.gap is not None
        self.pairs = list(
            zip(problem.plan.network_calls[::2], problem.plan.network_calls[1::2], strict=True)
        )
        rho = problem.schedule.rho(problem.plan.grid)
        self.lengths = rho.diff().tolist()
        self.x = self.z = torch.empty(0)  # at the end

    def network(self, x: Tensor, t: Tensor) -> Tensor:
        """The network sees states in the dtype of the noise."""
        return super().network(x.to(self.dtype), t).to(x.dtype)

    def sample(self) -> Tensor:
        index = 0

        def evaluate(call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal index
            data, noise = self.evaluate(call, x)
            if index % 2 == 0:
                self.z = x / call.alpha
            else:
                self.z = self.z + self.lengths[index // 2] * noise
            index += 1
            return data, noise

        with torch.no_grad():
            result = self.problem.execute(evaluate)
            self.x = result.detach()  # autograd will make `result` itself own this object
        return result.to(self.dtype)

    def costate(self, result: Tensor, gradient: Tensor, noise_wanted: bool) -> Tensor:
        c = self.coupling
        end = self.pairs[-1][1].alpha
        y, z = self.x / end, self.z
        a = gradient.to(y.dtype) * end  # ∂L/∂y
        b = torch.zeros_like(a)  # ∂L/∂z
        for step in reversed(range(len(self.pairs))):
            (first, second), h = self.pairs[step], self.lengths[step]
            noise, pulled = self._pull(second, y, b * h)
            z, a = z - h * noise, a + pulled
            noise, pulled = self._pull(first, z, a * h)
            y = (y - (1 - c) * z - h * noise) / c
            a, b = c * a, b + (1 - c) * a + pulled
            if step > 0:
                self.problem.report_costate(step - 1, a / first.alpha)
        self._check(y, z)
        return ((a + b) / self.pairs[0][0].alpha).to(self.dtype)

    def _pull(self, call: NetworkCall, state: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        """ε at `state` (y or z), and cotangentᵀ ∂ε/∂state; adds what the inputs get."""
        with torch.enable_grad(), self.draws.repeated(call.data):
            state = state.detach().requires_grad_()
            x = state * call.alpha
            output = self.network(x, call.time)
            self.check_captured(output, state)
            _, noise = self.problem.split(output, call, x)
        pulled, *found = torch.autograd.grad(
            noise, [state, *self.wanted], cotangent, allow_unused=True
        )
        self.add(found, 1.0)
        return noise.detach(), torch.zeros_like(state) if pulled is None else pulled

    def _check(self, y: Tensor, z: Tensor) -> None:
        start = self.problem.start.detach()
        gap = self.problem.sampler.draw(0, start) if self.gapped else torch.zeros_like(start)
        alpha = self.pairs[0][0].alpha
        starts = (y, (start + gap) / alpha), (z, start / alpha)
        error = max(
            ((state - known).norm() / positive(known.norm())).item() for state, known in starts
        )
        # At most half of the digits may be lost. It does no harm if the network gets an input that
        # is rounded differently once in a while.
        if not error <= max(
            torch.finfo(start.dtype).eps ** 0.5, 1e-6 if start.dtype != self.dtype else 0
        ):
            raise ReversalError(
                f"running the sampler backwards arrived {error:.1e} (relative) away from the noise "
                "that it started from, so the gradient cannot be trusted; take grids.log_snr, "
                f"more steps, another coupling, or Checkpoint()"
            )
