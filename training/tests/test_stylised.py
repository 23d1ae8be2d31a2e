"""Stylised drawings: what is held out, and what the judge's training makes of them."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from adjointdpm.metrics.networks.judge import Judge
from training import judges, stylised
from training.judge_figures import PATCH, on_others, shuffle_patches


def test_no_painter_is_both_trained_and_tested_on():
    together = stylised.HELD_OUT + stylised.VALIDATION + stylised.TRAINED
    assert sorted(together) == list(range(stylised.PAINTERS))
    assert len(stylised.HELD_OUT) == 6


def test_mixtures_are_of_trained_painters_only():
    rng, single = random.Random(0), 0
    for _ in range(400):
        mixture = stylised.draw_mixture(rng)
        assert set(mixture) <= set(stylised.TRAINED)
        assert sum(mixture.values()) == pytest.approx(1)
        single += len(mixture) == 1
    assert 150 < single < 250


def test_a_picture_is_painted_at_the_side_asked_for_and_comes_back_at_its_own():
    asked = []

    def invert(picture: Image.Image, mixture: dict[int, float], strength: float) -> Image.Image:
        asked.append((picture.size, mixture, strength))
        return Image.fromarray(255 - np.asarray(picture))

    ramp = np.linspace(40, 200, 64).astype(np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    painted = stylised.stylise(ramp, invert, {7: 1.0}, 128, 0.5)
    assert asked == [((128, 128), {7: 1.0}, 0.5)]
    assert painted.dtype == np.uint8
    np.testing.assert_allclose(painted.astype(int), 255 - ramp.astype(int), atol=3)


def test_half_of_the_pictures_keep_their_colours_and_textures():
    torch.manual_seed(0)
    images = torch.rand(400, 3, 16, 16)
    filtered = judges.filter_randomly(images)
    assert filtered.shape == images.shape
    assert 0 <= filtered.min() <= filtered.max() <= 1
    kept = (filtered == images).all((1, 2, 3)).sum()
    assert 150 < kept < 250


def test_stylised_drawings_have_the_judges_classes_and_none_of_a_style_left_out(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(judges, "WORK", tmp_path)
    with pytest.raises(SystemExit, match=r"python -m training\.stylised"):
        judges.stylised_drawings([3, 8], "")
    for seed, labels in enumerate([[[3, 0, 0], [5, 0, 0]], [[8, 2, 1], [8, 1, 0]]]):
        images = np.full((2, 64, 64, 3), seed, dtype=np.uint8)
        stylised.write(
            tmp_path / "stylised" / f"train-{seed}.npz",
            {"images": images, "labels": np.array(labels, dtype=np.int16)},
        )
    images, labels = judges.stylised_drawings([3, 8], "fluent")
    assert images[:, 0, 0, 0].tolist() == [0, 1]
    assert labels.tolist() == [[0, 0, 0], [1, 1, 0]]


def test_shuffled_patches_are_the_same_patches_elsewhere():
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    shuffled = shuffle_patches(images, 1)

    def patches(picture: np.ndarray) -> list[bytes]:
        return [
            picture[i : i + PATCH, j : j + PATCH].tobytes()
            for i in range(0, 64, PATCH)
            for j in range(0, 64, PATCH)
        ]

    for before, after in zip(images, shuffled, strict=True):
        assert patches(before) != patches(after)
        assert sorted(patches(before)) == sorted(patches(after))


def test_a_concept_that_is_seen_everywhere_shows():
    judge = Judge([f"concept {i}" for i in range(20)], ["noto"], (8, 8, 8, 8))
    judge.concept.weight.zero_()
    judge.concept.bias.copy_(-torch.arange(20.0))  # it always answers 0, 1, 2, 3, 4
    images = np.zeros((10, 64, 64, 3), dtype=np.uint8)
    labels = np.stack([np.arange(10), np.zeros(10), np.zeros(10)], axis=1).astype(np.int16)
    found = on_others(judge, images, labels)
    assert found["likeliest"] == 1
    assert found["top5"] == pytest.approx(45 / 90)
    assert found["top1"] == pytest.approx(9 / 90)
