"""Networks whose score is known in closed form: Gaussian mixtures, and one Gaussian with its flow
map.
"""

import torch
from torch import Tensor, nn

import adjointdpm as adj
from adjointdpm.engine.denoiser import Prediction

SCHEDULES = {
    "table": lambda: adj.NoiseSchedule.from_alphas_cumprod(
        torch.cumprod(
            1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
        )
    ),
    "linear": adj.NoiseSchedule.linear,
    "edm": lambda: adj.NoiseSchedule.edm(0.01, 20.0),
    "flow": adj.NoiseSchedule.flow_matching,
}
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample", "flow")


class Mixture(nn.Module):
    """A mixture of isotropic Gaussians whose means are shifted by the conditioning; predicts
    whatever it is told to, exactly.
    """

    def __init__(
        self,
        schedule: adj.NoiseSchedule,
        dim: int = 3,
        components: int = 4,
        std: float = 0.6,
        prediction: Prediction = "epsilon",
    ) -> None:
        super().__init__()
        self.schedule, self.prediction = schedule, prediction
        self.means = nn.Parameter(1.5 * torch.randn(components, dim, dtype=torch.float64))
        self.log_std = nn.Parameter(torch.tensor(std, dtype=torch.float64).log())
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        self.calls += 1
        t = t.double()
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        means = self.means + (0 if cond is None else cond[:, None])
        variance = (alpha * self.log_std.exp()) ** 2 + sigma**2
        offset = x[:, None] - alpha[:, :, None] * means
        weight = torch.softmax(-(offset**2).sum(-1) / (2 * variance), -1)
        # E[x_0 | x] by Tweedie, written so that it is finite at α = 0 and at σ = 0.
        data = (weight[..., None] * means).sum(
            1
        ) * sigma**2 / variance + self.log_std.exp() ** 2 * alpha / variance * x
        noise = sigma / variance * (weight[..., None] * offset).sum(1)
        match self.prediction:
            case "epsilon":
                return noise
            case "sample":
                return data
            case "flow":
                return noise - data
            case "v_prediction":
                return (alpha * noise - sigma * data) / (alpha**2 + sigma**2).sqrt()


def gaussian_flow(
    schedule: adj.NoiseSchedule,
    mean: Tensor,
    std: float | Tensor,
    x: Tensor,
    start: Tensor,
    end: Tensor,
) -> Tensor:
    """The exact solution of the probability-flow ODE for one Gaussian N(mean, std²): the
    standardised state is constant.
    """
    first, last = (
        (schedule.alpha(t) ** 2 * std**2 + schedule.sigma(t) ** 2).sqrt() for t in (start, end)
    )
    return schedule.alpha(end) * mean + last / first * (x - schedule.alpha(start) * mean)


def relative_error(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    return ((a - b).norm() / b.norm()).item()
