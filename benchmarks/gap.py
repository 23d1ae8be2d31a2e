"""Which share of the way from a start to a goal was covered, and how sure that is."""

import random
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple


class Triple(NamedTuple):
    """One quantity of one held-out example, lower is better: at the start, where learning led, and at the goal."""

    start: float
    reached: float
    goal: float


def gap_share(triples: Sequence[Triple]) -> float | None:
    """(start − reached) / (start − goal) of the means; None if the goal is no better than the start, so that there is no gap."""
    start, reached, goal = (sum(values) / len(triples) for values in zip(*triples, strict=True))
    return (start - reached) / (start - goal) if goal < start else None


def gap_interval(groups: Sequence[Sequence[Triple]], rounds: int = 2000) -> list[float] | None:
    """95 % bootstrap interval of `gap_share`, always with the same draws.

    Groups are drawn first, then examples within each: concepts differ more than the pictures of one concept. With one group only examples
    are drawn. None if there is no gap in more than 2.5 % of the draws: then the data do not bound the share.
    """
    draw = random.Random(0)
    found = []
    for _ in range(rounds):
        found.append(gap_share(pooled([draw.choices(group, k=len(group)) for group in draw.choices(groups, k=len(groups))])))
    shares = sorted(share for share in found if share is not None)
    if len(shares) < 0.975 * rounds:
        return None
    return [shares[round(0.025 * (len(shares) - 1))], shares[round(0.975 * (len(shares) - 1))]]


def pooled(groups: Sequence[Sequence[Triple]]) -> list[Triple]:
    """The examples of all groups."""
    return list(chain.from_iterable(groups))


def share_text(share: float | None, interval: list[float] | None) -> str:
    """A share and its interval for a table."""
    if share is None:
        return "no gap"
    return f"{share:.0%} [{interval[0]:.0%}, {interval[1]:.0%}]" if interval else f"{share:.0%} [unbounded]"
