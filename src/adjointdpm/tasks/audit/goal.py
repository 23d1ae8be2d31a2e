"""What counts as fooling a victim, and what an attack or a search found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from adjointdpm.tasks.audit.victims import Victim
from adjointdpm.variables import Example

# Whether each picture may count as a success, whatever the victim sees in it: whether a judge still
# sees what the prompt names.
Accept = Callable[[Float[Tensor, "n 3 height width"], Sequence[str]], list[bool]]


@dataclass(frozen=True)
class Findings:
    """What an attack found, one row for each example.

    Args:
        noise: where it ended, at the first success if there was one.
        pictures: what the model draws from it, clamped and rounded to 8 bits, so that the verdict
            is that on a saved file.
        verdicts: the victim's group for these pictures.
        fooled: the victim errs (untargeted), or sees the target.
        iterations: gradient steps, or random tries, that were spent.

    """

    noise: Float[Tensor, "n *shape"]
    pictures: Float[Tensor, "n 3 pixels_y pixels_x"]
    verdicts: Int[Tensor, " n"]
    fooled: Bool[Tensor, " n"]
    iterations: Int[Tensor, " n"]


@dataclass(frozen=True)
class Goal:
    """What counts as fooling the victim.

    Args:
        victim: who is fooled.
        labels: the right group of each example.
        target: the group that the victim shall see; None is any wrong one.

    """

    victim: Victim
    labels: Int[Tensor, " n"]
    target: int | None = None

    def rows(self, index: Tensor) -> "Goal":
        """The same for some of the examples."""
        return Goal(self.victim, self.labels[index], self.target)

    def fooled(self, verdicts: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Whether each verdict is what was aimed at."""
        return verdicts != self.labels if self.target is None else verdicts == self.target

    def margin(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, " n"]:
        """A difference of logits, negative when the victim is fooled.

        It is f₆ of Carlini and Wagner 2017 (arXiv 1608.04644).
        """
        logits = self.victim.logits(images)
        wanted = self.labels
        if self.target is not None:
            wanted = torch.full_like(self.labels, self.target)
        wanted = wanted.to(logits.device)
        chosen = logits.gather(1, wanted[:, None])[:, 0]
        others = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)
        return chosen - others if self.target is None else others - chosen


def as_saved(images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n 3 height width"]:
    """Clamped to [0, 1] and rounded to 8 bits, as a PNG file holds them; on the CPU."""
    return (images.detach().float().cpu().clamp(0, 1) * 255).round() / 255


def succeeds(
    goal: Goal, pictures: Tensor, examples: Sequence[Example], accept: Accept | None
) -> Bool[Tensor, " n"]:
    """Whether each picture fools the victim and is accepted."""
    hits = goal.fooled(goal.victim.verdicts(pictures))
    if accept is None:
        return hits
    return hits & torch.tensor(accept(pictures, [example.prompt for example in examples]))
