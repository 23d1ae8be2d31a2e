"""Intervals cover what they should, checked by simulation and against the closed form."""

import random
from itertools import product

import pytest
import torch
from torch import Tensor

from adjointdpm import metrics
from adjointdpm.tasks.confidence_intervals import (
    bootstrap_interval,
    clustered_share_interval,
    share_interval,
)
from adjointdpm.tasks.evaluation import evaluate
from adjointdpm.variables import Example

PROMPTS = [f"prompt {i}" for i in range(12)]


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


def test_pictures_of_several_seeds_are_not_taken_for_as_many_prompts() -> None:
    """12 prompts with 4 seeds each: prompts differ by 1, the pictures of one prompt by 0.5."""
    draw, of = random.Random(2), PROMPTS * 4
    covered = {"by prompt": 0, "by picture": 0}
    for _ in range(200):
        effects = [draw.gauss(0, 1) for _ in PROMPTS] * 4
        values = [effect + draw.gauss(0, 0.5) for effect in effects]
        for how, whose in (("by prompt", of), ("by picture", None)):
            low, high = bootstrap_interval(values, rounds=400, of=whose)
            covered[how] += low <= 0 <= high
    assert 0.87 <= covered["by prompt"] / 200 <= 0.98
    assert covered["by picture"] / 200 < 0.8  # what is not to be done


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (1.5, 0.5), (0.9, 0.1), (30, 10)])
def test_a_share_of_pictures_of_several_seeds_is_covered_too(alpha: float, beta: float) -> None:
    """Each prompt has a share of its own, drawn from a beta distribution."""
    draw, of, covered, share = random.Random(3), PROMPTS * 4, 0, alpha / (alpha + beta)
    for _ in range(400):
        chances = [draw.betavariate(alpha, beta) for _ in PROMPTS] * 4
        low, high = clustered_share_interval([draw.random() < chance for chance in chances], of)
        covered += low <= share <= high
    assert 0.9 <= covered / 400 <= 0.99


def test_one_picture_a_prompt_gives_the_intervals_of_single_values_to_the_last_digit() -> None:
    draw = random.Random(4)
    for count in (1, 2, 7, 12, 24):
        values = [draw.gauss(3, 2) for _ in range(count)]
        of = list(range(count))
        former = random.Random(0)
        means = sorted(sum(former.choices(values, k=count)) / count for _ in range(2000))
        assert (
            bootstrap_interval(values)
            == bootstrap_interval(values, of=of)
            == [means[50], means[1949]]
        )
        for hits in range(count + 1):
            found = [i < hits for i in range(count)]
            assert clustered_share_interval(found, of) == share_interval(hits, count)


def test_of_one_prompt_the_interval_is_over_its_pictures() -> None:
    values, of = [1.0, 2.0, 4.0, 8.0], ["a"] * 4
    assert bootstrap_interval(values, of=of) == bootstrap_interval(values)
    assert clustered_share_interval([True, False, False, True], of) == share_interval(2, 4)


def test_seeds_that_all_agree_count_once() -> None:
    of = PROMPTS * 4
    assert clustered_share_interval([i % 12 < 9 for i in range(48)], of) == pytest.approx(
        share_interval(9, 12), rel=0.02
    )
    assert clustered_share_interval([True] * 48, of) == share_interval(12, 12)
    assert clustered_share_interval([False] * 48, of) == share_interval(0, 12)


def test_what_tasks_report_is_over_prompts() -> None:
    examples = [Example(prompt, seed) for seed, prompt in product(range(3), PROMPTS[:4])]
    pictures = torch.rand(2, 12, 1, 1, 1, generator=torch.Generator().manual_seed(0)).expand(
        2, 12, 3, 8, 8
    )
    views = {"before": pictures[0], "after": pictures[1]}
    views["word"] = (pictures[0] + 2 * pictures[1]) / 3
    brightness = metrics.resolve(lambda images: images.mean((1, 2, 3)))

    def bright(images: Tensor, _: object) -> list[bool]:
        return (images.mean((1, 2, 3)) > 0.4).tolist()

    found = evaluate(brightness, examples, views, bright)
    of = [example.prompt for example in examples]
    change = brightness(views["after"]) - brightness(views["before"])
    expected, others = (
        bootstrap_interval(change.tolist(), of=of),
        bootstrap_interval(change.tolist()),
    )
    assert found["interval"] == pytest.approx(expected, rel=1e-5)
    assert found["interval"] != pytest.approx(others, rel=1e-2)
    assert list(found["since"]) == ["word"]  # a third of the way is left from there
    assert found["since"]["word"]["change"] == pytest.approx(found["change"] / 3, rel=1e-5)
    low, high = found["since"]["word"]["interval"]
    assert [3 * low, 3 * high] == pytest.approx(found["interval"], rel=1e-4)
    for view, images in views.items():
        assert found["recognised_interval"][view] == clustered_share_interval(
            bright(images, None), of
        )
