"""Which share of the way from a start to a goal was covered, and how sure that is."""

import random
from collections.abc import Hashable, Sequence
from itertools import chain
from typing import NamedTuple, TypeVar

from adjointdpm.tasks.confidence_intervals import clusters

T = TypeVar("T")


class Triple(NamedTuple):
    """One quantity of one held-out example; lower is better.

    It is known at the start, where learning led, and at the goal.
    """

    start: float
    reached: float
    goal: float


def gap_share(triples: Sequence[Triple]) -> float | None:
    """(start − reached) / (start − goal) of the means.

    None if the goal is no better than the start: then there is no gap.
    """
    start, reached, goal = (sum(values) / len(triples) for values in zip(*triples, strict=True))
    return (start - reached) / (start - goal) if goal < start else None


def gap_interval(
    groups: Sequence[Sequence[Triple]],
    rounds: int = 2000,
    of: Sequence[Sequence[Hashable]] | None = None,
) -> list[float] | None:
    """95 % bootstrap interval of `gap_share`, always with the same draws.

    Groups are drawn first, then examples within each: concepts differ more than the pictures of one
    concept. With one group only examples are drawn. None if there is no gap in more than 2.5 % of
    the draws: then the data do not bound the share.

    Args:
        groups: the examples, by group.
        rounds: how many draws.
        of: what each example of each group belongs to, such as its prompt. What belongs together is
            drawn together.

    """
    draw, found = random.Random(0), []
    within = [clusters(group, None if of is None else of[i]) for i, group in enumerate(groups)]
    for _ in range(rounds):
        drawn = [draw.choices(parts, k=len(parts)) for parts in draw.choices(within, k=len(within))]
        found.append(gap_share(pooled(pooled(drawn))))
    shares = sorted(share for share in found if share is not None)
    if len(shares) < 0.975 * rounds:
        return None
    return [shares[round(0.025 * (len(shares) - 1))], shares[round(0.975 * (len(shares) - 1))]]


def pooled(groups: Sequence[Sequence[T]]) -> list[T]:
    """The members of all groups."""
    return list(chain.from_iterable(groups))


def share_text(share: float | None, interval: list[float] | None) -> str:
    """A share and its interval for a table."""
    if share is None:
        return "no gap"
    return (
        f"{share:.0%} [{interval[0]:.0%}, {interval[1]:.0%}]"
        if interval
        else f"{share:.0%} [unbounded]"
    )
