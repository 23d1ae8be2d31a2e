"""A sampler of your own, with its gradients for free; python examples/own_sampler.py runs it."""

import argparse
from itertools import pairwise

import torch

import adjointdpm as adj
from adjointdpm.engine.plan import Plan
from adjointdpm.engine.plan_builder import PlanBuilder
from adjointdpm.engine.samplers import Sampler


class Churn(Sampler):
    """DDIM that keeps a share of the predicted noise and draws the rest anew."""

    def __init__(self, kept: float = 0.9, seed: int = 0) -> None:
        self.kept, self.seed = kept, seed

    def plan(self, schedule: adj.NoiseSchedule, grid: torch.Tensor) -> Plan:
        """Write down every step as a linear combination of what the network said."""
        plan = PlanBuilder(schedule, grid)
        x = plan.start
        for now, then in pairwise(range(len(grid))):
            data, noise = plan.call(x, now)
            mixed = self.kept * noise + (1 - self.kept**2) ** 0.5 * plan.draw()
            x = plan.end_step(plan.alpha[then] * data + plan.sigma[then] * mixed)
        return plan.build()

    def calls(self, steps: int) -> int:
        return steps

    @property
    def deterministic(self) -> bool:
        """No: there is no ODE for the adjoint method to solve."""
        return False

    def draw(self, index: int, like: torch.Tensor) -> torch.Tensor:
        """The noise of step `index`, the same at every run."""
        generator = torch.Generator().manual_seed(self.seed + index)
        return torch.randn(like.shape, generator=generator).to(like)


def main() -> None:
    """Compare the gradient with full backpropagation: they are equal to rounding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    model, gradients = adj.load("tiny"), []
    for method in (adj.Checkpoint(), adj.Backprop()):
        noise = model.noise(batch=1, seed=0).requires_grad_()
        options = {"steps": args.steps, "sampler": Churn(), "gradient": method}
        model.generate("an owl", noise, **options).mean().backward()
        gradients.append(noise.grad)
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    print(f"relative difference to full backpropagation: {error.item():.1e}")


if __name__ == "__main__":
    main()
