"""The bundled model's training data: captions, placement, and what is withheld."""

import random

import numpy as np
import pytest
from PIL import Image

from training import concepts, data

CONCEPTS = concepts.load_concepts()


def test_withheld_concepts_are_whole_clusters_and_about_five_percent():
    withheld = {c.cluster for c in CONCEPTS if c.withheld}
    assert withheld.isdisjoint(c.cluster for c in CONCEPTS if not c.withheld)
    assert 0.04 < sum(c.withheld for c in CONCEPTS) / len(CONCEPTS) < 0.08


def test_familiar_concepts_are_all_there_and_none_is_withheld():
    familiar = {c.name for c in CONCEPTS if c.familiar}
    assert familiar == concepts.FAMILIAR
    assert not any(c.familiar and c.withheld for c in CONCEPTS)


def test_names_and_codepoints_are_unique():
    assert len({c.name for c in CONCEPTS}) == len({c.codepoint for c in CONCEPTS}) == len(CONCEPTS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red apple", "a red apple"),
        ("owl", "an owl"),
        ("ewe", "a ewe"),
        ("unicorn", "a unicorn"),
        ("cherries", "cherries"),
        ("octopus", "an octopus"),
        ("wine glass", "a wine glass"),
        ("ice cream", "ice cream"),
        ("cup with straw", "a cup with straw"),
        ("ear of corn", "an ear of corn"),
    ],
)
def test_articles(name, expected):
    assert concepts.with_article(name) == expected


def test_captions_name_what_they_are_given_and_nothing_else():
    for seed in range(20):
        rng = random.Random(seed)
        full = concepts.caption("fox", "noto", "blue", rng)
        assert "fox" in full
        assert "noto" in full
        assert full.endswith(" on a blue background")
        bare = concepts.caption("fox", None, None, rng)
        assert bare in {"fox", "a fox"}


def test_placed_pictures_stay_whole_on_their_background():
    square = Image.new("RGBA", (128, 128), (0, 0, 255, 255))
    areas, lefts = [], []
    for seed in range(50):
        array = data.place(square, (10, 200, 30), random.Random(seed))
        assert array.shape == (64, 64, 3)
        assert array.dtype == np.uint8
        inside = (array == (0, 0, 255)).all(2)
        assert (array[~inside] == (10, 200, 30)).all()
        areas.append(inside.sum())
        lefts.append(np.flatnonzero(inside.any(0)).min())
        side = round(areas[-1] ** 0.5)
        assert side * side == areas[-1]
        assert 0.6 * 64 < side <= 64
    assert len(set(areas)) > 10
    assert len(set(lefts)) > 10


def test_half_of_the_pictures_are_mirrored():
    picture = Image.new("RGBA", (128, 128), (255, 0, 0, 255))
    picture.paste((0, 0, 255, 255), (0, 0, 64, 128))
    mirrored = 0
    for seed in range(200):
        array = data.place(picture, (255, 255, 255), random.Random(seed)).astype(int)
        blue = np.flatnonzero((array[..., 2] - array[..., 0] > 200).any(0)).mean()
        red = np.flatnonzero((array[..., 0] - array[..., 2] > 200).any(0)).mean()
        mirrored += blue > red
    assert 70 < mirrored < 130


@pytest.mark.skipif(not (data.WORK / "npm").exists(), reason="the packages have not been fetched")
def test_the_rule_gives_the_committed_concepts():
    folders = data.fetch()
    assert data.choose_concepts(folders, data.read_styles(folders)) == CONCEPTS
