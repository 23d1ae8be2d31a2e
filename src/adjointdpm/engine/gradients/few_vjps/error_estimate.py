"""How far a few-VJP gradient is off, read from its own way back without another network call."""

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients.few_vjps.jacobian_model import JacobianModel
from adjointdpm.engine.numerics import at_least_float32, norms, positive
from adjointdpm.engine.plan import Costates


class ErrorEstimate:
    """The relative error of a gradient, from the jumps that the costate makes when the network has
    been asked at a node.

    Every node is reached with a predicted costate, and once the network has answered there, with a
    corrected one. How far the two are apart tells what guessing does over that stretch. With n such
    stretches and δ the root mean square of ‖predicted − corrected‖ / ‖corrected‖, the estimate is δ
    n^((1 − t)/2), where t, between 0 and 1, is how far slopes foretell the nodes
    (`JacobianModel.trust`). Where they foretell nothing, the corrected costate is off by as much as
    the predicted one, independently in every stretch: errors add up to δ √n. Where they foretell
    all, interpolation is better than extrapolation about as much as there are stretches to add up.
    The exponent was found on mixtures and on pictures outside of the gradient benchmark, which
    compares the estimate with the true error (`docs/gradients.md`), as
    `tests/test_error_estimate.py` does on mixtures.

    Above about 1 it says only that the gradient is of no use: jumps are measured by costates that
        may have blown up themselves.

    Args:
        model: what guesses.

    """

    def __init__(self, model: JacobianModel) -> None:
        self._model = model
        self._jumps: list[Float[Tensor, " batch"]] = []
        self._trusts: list[Float[Tensor, " batch"]] = []

    def corrected(self, register: int, predicted: Costates, corrected: Costates) -> None:
        """Take in the two costates of the state that a node's step starts from, in its register."""
        before, after = predicted.get(register), corrected.get(register)
        if before is None or after is None:
            return
        jump = norms(before.to(at_least_float32(before)) - after.to(at_least_float32(after)))
        self._jumps.append(jump / positive(norms(after)))
        trust = self._model.trust()
        if trust is not None:
            self._trusts.append(trust)

    def relative(self, exact: bool, like: Float[Tensor, "batch *shape"]) -> Float[Tensor, " batch"]:
        """The estimate for each sample: 0 if nothing was guessed (`exact`), NaN if no guess was
        ever checked.
        """
        if not self._jumps:
            return torch.full((len(like),), 0.0 if exact else float("nan"), device=like.device)
        size = torch.stack(self._jumps).square().mean(0).sqrt()
        trust = torch.stack(self._trusts).mean(0) if self._trusts else torch.zeros_like(size)
        return size * len(self._jumps) ** ((1 - trust) / 2)
