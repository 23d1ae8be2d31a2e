"""95 % intervals: of a mean by the bootstrap, of a share by Wilson's formula."""

import random
from collections.abc import Sequence
from math import sqrt

_Z = 1.959964  # of 95 %


def bootstrap_interval(values: Sequence[float], rounds: int = 2000) -> list[float]:
    """Percentile interval of the mean of `values` (Efron 1979), always with the same draws."""
    draw = random.Random(0)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(rounds))
    return [means[round(0.025 * (rounds - 1))], means[round(0.975 * (rounds - 1))]]


def share_interval(hits: int, count: int) -> list[float]:
    """Interval of a share `hits / count` (Wilson 1927), which stays within [0, 1] and is not empty at 0 and 1."""
    share = hits / count
    middle = share + _Z**2 / (2 * count)
    reach = _Z * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    low, high = ((middle + sign * reach) / (1 + _Z**2 / count) for sign in (-1, 1))
    return [low if hits else 0.0, high if hits < count else 1.0]  # exactly, where rounding would miss by 1e-17
