"""A model of the network's Jacobian between the calls at which products with it are known."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients.few_vjps.node_placement import Nodes
from adjointdpm.engine.numerics import at_least_float32, dots, norms, positive
from adjointdpm.engine.plan import NetworkCall

Scalars = Float[Tensor, "batch *ones"]  # one number a sample

# j is at least this, below which log(j / (1 − j)) says nothing. At large ρ, where it is as small
# for every s, it may fall to that of data with this share of the sample's mean square.
LEAST, SHARE = 1e-4, 0.01


class JacobianModel:
    """Guesses Jᵀ b for J = ∂x̂_0/∂y, y = x/α, at calls that are not nodes: Jᵀ b ≈ j b + β r.

    For Gaussian data of standard deviation s the ideal denoiser has J = j = s²/(s² + ρ²) in all
    directions. At a node, j is the multiple of b that comes closest to Jᵀ b, and log s² follows
    from it. It is interpolated linearly in log ρ, where it varies little although j falls by orders
    of magnitude. It is at most the log of the sample's own mean square, because near the data, and
    where J is larger than the identity, it cannot be determined.

    The rest of Jᵀ b at a node, r, is interpolated by a parabola. In a solve that starts without
    signal most calls lie at ρ ≫ s, where all of J falls as j does. There r is interpolated relative
    to the j of the sample's mean square, not to the one from the node: that may be wrong by orders
    of magnitude at one node, which would blow up its neighbours.

    On the way back nodes become known one after the other. To reach the next one, r is extrapolated
    along the slope between the last two nodes, sample by sample, as far as that slope would have
    predicted the newest node. So a network with a rough Jacobian gets a constant, a smooth one a
    line.

    Args:
        nodes: the calls at which the network is differentiated, and how others lie between them.
        result: x_0.

    Attributes:
        asked_with: by (step, stage) of a node, the b that the network was called with.
        latest: by (step, stage) of any call, its latest b, and log(j / (1 − j)); 1 − j itself would
            round to 0 near the data.

    """

    def __init__(self, nodes: Nodes, result: Float[Tensor, "batch *shape"]) -> None:
        self.nodes = nodes
        mean_square = norms(result).square() / result[0].numel()
        self._most = mean_square.log().view(-1, *[1] * (result.ndim - 1))
        self.asked_with: dict[tuple[int, int], Tensor] = {}
        self.latest: dict[tuple[int, int], tuple[Tensor, Scalars]] = {}
        self._log_variance: dict[tuple[int, int], Scalars] = {}
        self._rest: dict[tuple[int, int], Tensor] = {}
        # By stage, the share of the slope that extrapolation follows.
        self._trust: dict[int, Scalars] = {}

    def known(self, stage: int) -> list[int]:
        """The nodes of a stage that are known and can be interpolated, increasing."""
        return sorted(step for step, s in self._rest if s == stage)

    def learn(self, call: NetworkCall, b: Tensor, product: Tensor) -> None:
        """Add a node: Jᵀ b = `product` at `call`."""
        step, stage = self.nodes.place[call.data]
        if not self.nodes.can_interpolate(step, stage):
            return
        log_square = 2 * self.nodes.log_rho[call.data]
        most = torch.sigmoid(self._most - log_square)
        least = torch.sigmoid(self._most + math.log(SHARE) - log_square).clamp(max=LEAST)
        j = torch.maximum(projection(product, b), least)
        self._log_variance[step, stage] = torch.where(
            j < most, j.clamp(max=most).logit() + log_square, self._most
        )
        log_odds = self._log_variance[step, stage] - log_square
        j = torch.sigmoid(log_odds)
        rest = (product.to(at_least_float32(b)) - j.to(at_least_float32(b)) * b) / self._unit(
            call, b
        )
        behind = self.known(stage)[:2]
        if len(behind) == 2:
            self._trust[stage] = projection(
                rest - self._rest[behind[0], stage], self._slope(step, stage, behind)
            ).clamp(0, 1)
        self._rest[step, stage] = rest
        self.asked_with[step, stage] = b
        self.latest[step, stage] = b, log_odds

    def trust(self) -> Float[Tensor, " batch"] | None:
        """The share of the slope that extrapolation follows now, as a mean over stages.

        None until three nodes of a stage are known.
        """
        return (
            torch.stack([share.flatten() for share in self._trust.values()]).mean(0)
            if self._trust
            else None
        )

    def product(self, call: NetworkCall, b: Tensor) -> Tensor:
        """A guess of Jᵀ b at `call`; at a node the known product, scaled to this `b`."""
        step, stage = self.nodes.place[call.data]
        known = self.known(stage)
        if (step, stage) in self._rest and self.latest[step, stage][0] is self.asked_with[
            step, stage
        ]:
            self._rest[step, stage] = self._rest[step, stage] * projection(
                b, self.asked_with[step, stage]
            ).to(at_least_float32(b))
        rest: Tensor = sum(
            weight * self._rest[node, stage]
            for node, weight in self.nodes.curve(step, stage, known)
        )  # pyright: ignore[reportAssignmentType]
        if stage in self._trust and step < known[0]:
            rest = rest + self._trust[stage].to(at_least_float32(b)) * self._slope(
                step, stage, known[:2]
            )
        log_odds = self.log_odds(step, stage)
        j = torch.sigmoid(log_odds)
        self.latest[step, stage] = b, log_odds
        return (j.to(at_least_float32(b)) * b + rest * self._unit(call, b)).to(b.dtype)

    def log_odds(self, step: int, stage: int) -> Scalars:
        """Log(j / (1 − j)) of the multiple j at a node or between nodes."""
        line = self.nodes.line(step, stage, self.known(stage))
        log_variance = (
            torch.stack([weight * self._log_variance[node, stage] for node, weight in line]).sum(0)
            if line
            else self._most
        )
        return log_variance - 2 * self.nodes.log_rho[self.nodes.calls[step][stage].data]

    def _unit(self, call: NetworkCall, b: Tensor) -> Scalars | float:
        """The unit of the rest r."""
        beta = self.nodes.beta[call.data]
        if not self.nodes.from_infinity:
            return beta
        return (beta * torch.sigmoid(self._most - 2 * self.nodes.log_rho[call.data])).to(
            at_least_float32(b)
        )

    def _slope(self, step: int, stage: int, behind: Sequence[int]) -> Tensor:
        """What a line through the last two nodes, the newest first, adds at this step."""
        near, far = behind
        return (self.nodes.between(step, stage, near, far) - 1) * (
            self._rest[near, stage] - self._rest[far, stage]
        )


def projection(vector: Tensor, basis: Tensor) -> Scalars:
    """The multiple of `basis` that comes closest to `vector`, for each sample: [B, 1, …]."""
    return dots(basis, vector) / positive(norms(basis).square()).view(-1, *[1] * (basis.ndim - 1))
