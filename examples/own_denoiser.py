"""Differentiate the sampler of a network of your own, without diffusers.

Run: python examples/own_denoiser.py. The network is the exact denoiser of two Gaussian blobs.
"""

import argparse

import torch

import adjointdpm as adj


class Blobs(torch.nn.Module):
    """The optimal denoiser for data N(±center, width²): x is [B, 2], t is σ, [B]."""

    def __init__(self, width: float = 0.3) -> None:
        super().__init__()
        self.center = torch.nn.Parameter(torch.tensor([1.0, 0.5]))
        self.width = width

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: None) -> torch.Tensor:
        """The expected clean point given the noisy one: prediction "sample"."""
        sigma = t[:, None]
        share = torch.tanh((x * self.center).sum(1, keepdim=True) / (sigma**2 + self.width**2))
        mean = share * self.center
        return mean + self.width**2 / (sigma**2 + self.width**2) * (x - mean)


def main() -> None:
    """Sample, then move the parameter so that samples land at one height."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--iterations", type=int, default=40)
    args = parser.parse_args()

    blobs = Blobs()
    denoiser = adj.Denoiser(blobs, prediction="sample")
    schedule = adj.NoiseSchedule.edm(sigma_min=0.02, sigma_max=10.0)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.05)
    noise = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    for iteration in range(args.iterations):
        points = adj.sample(
            denoiser, noise, schedule=schedule, steps=args.steps, sampler=adj.DPMSolverPP()
        )
        loss = (points[:, 1].abs() - 2).square().mean()  # wanted: blobs at height ±2
        optimizer.zero_grad()
        loss.backward()  # every network call of the sampler is differentiated
        optimizer.step()
        if iteration % 10 == 0:
            print(f"iteration {iteration}: {loss.item():.3f}")
    print(f"center {blobs.center.tolist()}")


if __name__ == "__main__":
    main()
