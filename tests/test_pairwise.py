"""Pairwise cases leave no pair of values out, and are far fewer than the product."""

from itertools import combinations, product

import pytest

from helpers.pairwise import pairwise


@pytest.mark.parametrize("sizes", [(11, 4, 4), (2, 2), (3, 3, 3, 2), (5, 1, 2)])
def test_every_pair_of_values_meets(sizes: tuple[int, ...]) -> None:
    axes = [[f"{axis}-{value}" for value in range(size)] for axis, size in enumerate(sizes)]
    cases = pairwise(*axes)
    for first, second in combinations(range(len(axes)), 2):
        met = {(case[first], case[second]) for case in cases}
        assert met == set(product(axes[first], axes[second]))
    assert len(set(cases)) == len(cases)
    assert cases == pairwise(*axes)


def test_the_samplers_need_a_quarter_of_the_product() -> None:
    assert len(pairwise(range(11), range(4), range(4))) <= 48
    assert len(pairwise(range(3), range(3), range(3), range(3))) <= 12
