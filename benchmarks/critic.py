"""The classifier that `vocabulary.py` optimises against.

Its widths, its seed and its batches are not those of the bundled judge.

`python -m training.judges --minutes 6 --widths 16,40,80,112 --seed 11 --placements 150 --folder
training/work/critic` trains it. As a metric it is written
`classifier:network=benchmarks/critic.py:load,target=pear`.

Limitation: judge and critic are of one family and learned from the same pictures, so they may share
mistakes. What fools the critic can fool the judge too, more than it would fool a stranger: the
judge's verdict is an optimistic one.
"""

import hashlib
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.errors import ModelError
from adjointdpm.metrics.networks.judge import Judge

FOLDER = Path(__file__).parents[1] / "training" / "work" / "critic"


class Concepts(nn.Module):
    """Concept logits of a judge in a folder.

    Attributes:
        classes: the concepts' names, in the order of the logits.

    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.network = Judge.load(folder)
        self.classes = self.network.concepts

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Unnormalised log-probabilities of `classes`."""
        return self.network.concept_logits(images)


def load() -> nn.Module:
    """The critic of `FOLDER`."""
    return Concepts(FOLDER)


def metric(concept: str) -> str:
    """The critic's cross-entropy to a concept, as the tasks take a metric."""
    return f"classifier:network={Path(__file__).resolve()}:load,target={concept}"


def fingerprint(folder: Path = FOLDER) -> str:
    """Which critic it is: results of two critics do not belong into one table."""
    try:
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise ModelError(
            f"there is no critic in {folder} ({error}); train it with training/judges.py --folder "
            f"{folder}"
        ) from error
