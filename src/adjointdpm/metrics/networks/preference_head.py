"""The head of the aesthetic predictor and of ImageReward: five linear layers, no activations."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.errors import ModelError

_LINEAR = (0, 2, 4, 6, 7)  # the official code has dropout between them, which only trains


class PreferenceHead(nn.Module):
    """A vector -> one number.

    Args:
        state: the weights under their official names `layers.0.weight`, …

    Attributes:
        width: of the vector.

    Raises:
        ModelError: a tensor is missing.

    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        names = [f"layers.{i}.{kind}" for i in _LINEAR for kind in ("weight", "bias")]
        if missing := [name for name in names if name not in state]:
            raise ModelError(f"the head's weights lack {', '.join(missing)}")
        layers = {}
        for i in _LINEAR:
            outputs, inputs = state[f"layers.{i}.weight"].shape
            layers[str(i)] = nn.Linear(inputs, outputs)
        self.layers = nn.ModuleDict(layers)
        self.load_state_dict({name: state[name] for name in names})
        self.width: int = state["layers.0.weight"].shape[1]

    def forward(self, vectors: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Score each vector."""
        for layer in self.layers.values():
            vectors = layer(vectors)
        return vectors[:, 0]
