"""Intervals cover what they should, checked by simulation and against the closed form."""

import random

import pytest

from adjointdpm.intervals import bootstrap_interval, share_interval


def test_the_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    draw, hits = random.Random(1), 0
    for _ in range(150):
        low, high = bootstrap_interval([draw.gauss(3, 2) for _ in range(40)], rounds=400)
        hits += low <= 3 <= high
    assert 0.88 <= hits / 150 <= 0.99


def test_the_share_interval_solves_wilsons_equation() -> None:
    for hits, count in ((0, 10), (3, 10), (10, 10), (47, 50)):
        for end in share_interval(hits, count):
            if 0 < end < 1:
                z = abs(hits / count - end) / (end * (1 - end) / count) ** 0.5
                assert z == pytest.approx(1.959964, rel=1e-6)
    low, high = share_interval(0, 10)
    assert low == 0
    assert 0.2 < high < 0.35
