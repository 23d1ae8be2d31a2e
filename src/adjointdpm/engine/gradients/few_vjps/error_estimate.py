"""How far a few-VJP gradient is off, read from its own way back without another network call."""

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.engine.gradients.few_vjps.jacobian_model import JacobianModel
from adjointdpm.engine.numerics import at_least_float32, norms, positive
from adjointdpm.engine.plan import Costates


class ErrorEstimate:
    """The relative error of a gradient, from the jumps of the costate at the nodes.

    The costate at a node is first predicted, by extrapolation. Once the network has been called
    there, it is corrected. Their distance shows the error of guessing over that stretch. With n
    such stretches and δ the root mean square of ‖predicted − corrected‖ / ‖corrected‖, the estimate
    is δ n^((1 − t)/2). Here t, between 0 and 1, is how well slopes predict the nodes
    (`JacobianModel.trust`). Where they predict nothing, the corrected costate is off by as much as
    the predicted one, independently in every stretch, and errors add up to δ √n. Where they predict
    everything, interpolation is better than extrapolation by about the factor that n stretches add.
    The exponent was found on mixtures and on pictures outside of the gradient benchmark. The
    benchmark compares the estimate with the true error (`docs/gradients.md`), and so does
    `tests/engine/gradients/test_error_estimate.py` on mixtures.

    An estimate above about 1 says only that the gradient is useless: the costates by which jumps
    are measured may have blown up.

    Args:
        model: guesses the products with the Jacobian.

    """

    def __init__(self, model: JacobianModel) -> None:
        self._model = model
        self._jumps: list[Float[Tensor, " batch"]] = []
        self._trusts: list[Float[Tensor, " batch"]] = []

    def corrected(self, register: int, predicted: Costates, corrected: Costates) -> None:
        """Add the two costates of the state that a node's step starts from, in its register."""
        before, after = predicted.get(register), corrected.get(register)
        if before is None or after is None:
            return
        jump = norms(before.to(at_least_float32(before)) - after.to(at_least_float32(after)))
        self._jumps.append(jump / positive(norms(after)))
        trust = self._model.trust()
        if trust is not None:
            self._trusts.append(trust)

    def relative(self, exact: bool, like: Float[Tensor, "batch *shape"]) -> Float[Tensor, " batch"]:
        """The estimate for each sample.

        It is 0 if nothing was guessed (`exact`), and NaN if no guess was ever checked.
        """
        if not self._jumps:
            return torch.full((len(like),), 0.0 if exact else float("nan"), device=like.device)
        size = torch.stack(self._jumps).square().mean(0).sqrt()
        trust = torch.stack(self._trusts).mean(0) if self._trusts else torch.zeros_like(size)
        return size * len(self._jumps) ** ((1 - trust) / 2)
