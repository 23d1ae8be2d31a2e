"""The bundled judge as a plain classifier of concepts."""

from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.metrics.judge import Judge


class JudgeConcepts(nn.Module):
    """Concept logits of the bundled judge.

    Attributes:
        classes: the concepts' names, in the order of the logits.

    """

    def __init__(self) -> None:
        super().__init__()
        self._judge = Judge.load()
        self.network = self._judge.network  # so that `.to` and `.parameters` reach it
        self.classes = self._judge.concepts

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Unnormalised log-probabilities of `classes`, for images in [0, 1]."""
        return self._judge.concept_logits(images)
