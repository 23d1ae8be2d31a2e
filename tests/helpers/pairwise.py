"""Fewer cases than a product: every two values of different axes meet in at least one case."""

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any


def pairwise(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Cases, one value an axis, in which all pairs of values occur; the same ones every time.

    Greedy: of all cases that are left, take the one with the most pairs not seen yet, and stop when
    none has any.
    """
    values = [list(axis) for axis in axes]
    left = list(product(*(range(len(axis)) for axis in values)))
    unseen = {pair for case in left for pair in _pairs(case)}
    chosen = []
    while unseen:
        best = max(left, key=lambda case: len(unseen.intersection(_pairs(case))))
        unseen.difference_update(_pairs(best))
        chosen.append(tuple(axis[i] for axis, i in zip(values, best, strict=True)))
    return chosen


def _pairs(case: tuple[int, ...]) -> list[tuple[tuple[int, int], ...]]:
    return list(combinations(enumerate(case), 2))
