"""One sampling problem: everything that a gradient method needs to solve it and to differentiate the solution."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.denoiser import Denoiser
from adjointdpm.plan import Evaluate, NetworkCall, Plan
from adjointdpm.samplers.base import Sampler
from adjointdpm.schedule import NoiseSchedule
from adjointdpm.tree import Tree, tree_map

Callback = Callable[[int, float, Tensor, Tensor], None]
Output = Callable[[Tensor, Tensor, Tree, Tree], Tensor]  # Denoiser.output, or a stand-in for it


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
    callback: Callback | None = None

    def detached(self) -> "Problem":
        """The same problem on inputs of its own, leaves that require grad where the originals did, so that a graph ends in them."""

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().requires_grad_(tensor.requires_grad)

        return replace(self, start=leaf(self.start), cond=tree_map(leaf, self.cond), null_cond=tree_map(leaf, self.null_cond))

    def run(self, output: Output) -> Float[Tensor, "batch *shape"]:
        """Execute the plan with `output` in the network's place."""

        def evaluate(call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
            raw = output(x, self.network_time(call.time, x), self.cond, self.null_cond)
            return self.denoiser.split(raw, x, call.alpha, call.sigma)

        return self.execute(evaluate)

    def execute(self, evaluate: Evaluate, on_step: Callable[[int, Tensor], None] | None = None) -> Float[Tensor, "batch *shape"]:
        """Execute the plan; `on_step(step, x)` and the user's callback see the state after every step."""

        def report(step: int, x: Tensor, denoised: Tensor) -> None:
            if on_step is not None:
                on_step(step, x)
            if self.callback is not None:
                self.callback(step, self.plan.grid[step + 1].item(), x, denoised)

        return self.plan.run(evaluate, self.start, self.sampler.draw, report)

    def network_time(self, t: Tensor, x: Tensor) -> Float[Tensor, " batch"]:
        """The scalar time `t` as the network gets it: one a sample, on its device, in float32 at least (bfloat16 cannot hold t = 999)."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return t.to(x.device, dtype).expand(len(x))
