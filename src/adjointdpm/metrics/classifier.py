"""What a classifier sees in a picture: towards a class, or away from one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import nn

from adjointdpm.errors import InvalidInputError, MetricError
from adjointdpm.metrics.base import Images, Metric, Scores
from adjointdpm.metrics.networks import Judge, Wanted, class_indices, class_logits, load_network
from adjointdpm.support.named_options import quoted


@dataclass(frozen=True)
class Classifier(Metric):
    """How far a network's verdict is from a class, or from every other; give `target` or `away`.

    `target`: cross-entropy −log p, p the summed probability of the classes wanted; 0 is certainty.

    `away`: softplus(m), m = log Σ exp z_class − max z_other over the logits z, the margin of
    Carlini & Wagner (2017, arXiv 1608.04644). It is about m while the class leads, log 2 on a par,
    and falls to 0 as another class leads. Unlike a negated cross-entropy it is bounded and cannot
    be driven ever lower by garbage; unlike a clipped margin its gradient never vanishes altogether.

    Args:
        target: an index, a name that the network knows, several of them, or several in one text as
            in "cat+dog".
        away: likewise.
        network: its name as in `load_network`, or a module images -> logits.

    Raises:
        InvalidInputError: both or none of target and away, or an impossible index; one that is too
            high is found at the first call.
        UnknownNameError: an unknown class or network.
        ModelError: see `load_network`.

    """

    target: Wanted | None = None
    away: Wanted | None = None
    network: str | nn.Module = "efficientnet-lite0"
    smallest = 8
    hackable = True

    def __post_init__(self) -> None:
        if (self.target is None) == (self.away is None):
            raise InvalidInputError(
                f"classifier metric: give target or away, one of them, not target={self.target!r}, "
                f"away={self.away!r}"
            )
        _ = self._indices

    @property
    def name(self) -> str:
        """The text that makes this metric."""
        verb, wanted = ("target", self.target) if self.away is None else ("away", self.away)
        network = (
            quoted(self.network) if isinstance(self.network, str) else type(self.network).__name__
        )
        return f"classifier:{verb}={wanted},network={network}"

    @property
    def asks_judge(self) -> bool:
        """Whether the network is the bundled judge."""
        return self.network == "judge" or isinstance(self.network, Judge)

    def __call__(self, images: Images, /, prompts: Sequence[str] | None = None) -> Scores:
        """Score each picture."""
        logits = class_logits(self._network, images, f"the network of {self.name}")
        if max(self._indices) >= logits.shape[1] or len(self._indices) == logits.shape[1]:
            raise MetricError(
                f"{self.name}: classes {self._indices} must be some, and not all, of the network's "
                f"outputs [B, K] = {tuple(logits.shape)}"
            )
        indices = torch.tensor(self._indices, device=logits.device)
        inside = logits.index_select(1, indices).logsumexp(1)
        if self.away is None:
            return logits.logsumexp(1) - inside
        return F.softplus(inside - logits.index_fill(1, indices, -torch.inf).amax(1))

    @cached_property
    def _network(self) -> nn.Module:
        return load_network(self.network) if isinstance(self.network, str) else self.network

    @cached_property
    def _indices(self) -> tuple[int, ...]:
        wanted = self.target if self.away is None else self.away
        assert wanted is not None
        return class_indices(self._network, wanted)
