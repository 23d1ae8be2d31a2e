"""What a reward is: a metric of which more is better."""

from abc import abstractmethod
from collections.abc import Sequence

from adjointdpm.errors import MetricError
from adjointdpm.metrics.base import Images, Metric, Scores


class Reward(Metric):
    """A metric that is the negative of a score of which higher is better.

    What is minimised is the negative; reports show the score itself.
    """

    sign = -1
    smallest = 8

    #: Whether it needs to know what the pictures were drawn for.
    reads_prompts: bool = True

    @abstractmethod
    def reward(self, images: Images, prompts: Sequence[str]) -> Scores:
        """Score each picture; higher is better.

        Args:
            images: in [0, 1].
            prompts: what each was drawn for; empty if that is not known and not needed.

        """

    def __call__(self, images: Images, /, prompts: Sequence[str] | None = None) -> Scores:
        """The negative reward of each picture.

        Raises:
            MetricError: no prompts, or another number of them.

        """
        if self.reads_prompts and (prompts is None or len(prompts) != len(images)):
            given = "none" if prompts is None else len(prompts)
            raise MetricError(
                f"metric {self.name} scores pictures with their prompts; {len(images)} pictures "
                f"need as many, not {given}"
            )
        return -self.reward(images, prompts or ())
