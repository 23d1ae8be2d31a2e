"""The judge: shapes, gradients, and files that cannot be read."""

import json

import pytest
import torch
from safetensors.torch import save_file

from adjointdpm.errors import ModelError, ShapeError
from adjointdpm.metrics.networks.judge import BUNDLED, Judge


@pytest.fixture
def judge():
    torch.manual_seed(0)
    return Judge(list("abcde"), ["x", "y", "z"], (8, 16))


def write(judge, folder):
    save_file({k: v.half() for k, v in judge.state_dict().items()}, folder / "model.safetensors")
    config = {"concepts": judge.concepts, "styles": judge.styles, "widths": [8, 16]}
    (folder / "config.json").write_text(json.dumps(config))


def test_one_verdict_per_picture_whatever_its_size(judge):
    for size in (64, 96):
        images = torch.rand(2, 3, size, size)
        assert judge.concept_logits(images).shape == (2, 5)
        assert judge.style_logits(images).shape == (2, 3)
        assert judge.pooled(images).shape == (2, 16)


def test_a_verdict_does_not_depend_on_the_batch(judge):
    images = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(
        judge.concept_logits(images)[1:2], judge.concept_logits(images[1:2]), rtol=1e-4, atol=1e-5
    )


def test_gradients_agree_with_finite_differences(judge):
    judge.double()
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(images)
    (gradient,) = torch.autograd.grad(judge.concept_logits(images)[0, 2], images)
    h = 1e-5
    with torch.no_grad():
        up, down = (judge.concept_logits(images + s * h * direction)[0, 2] for s in (1, -1))
    assert (gradient * direction).sum().item() == pytest.approx(
        ((up - down) / (2 * h)).item(), rel=1e-5
    )


def test_weights_are_frozen_and_survive_a_round_trip(judge, tmp_path):
    write(judge, tmp_path)
    loaded = Judge.load(tmp_path)
    images = torch.rand(2, 3, 64, 64)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert (loaded.concepts, loaded.styles) == (judge.concepts, judge.styles)
    torch.testing.assert_close(
        loaded.concept_logits(images), judge.concept_logits(images), rtol=1e-2, atol=1e-2
    )


def test_wrong_shapes_are_refused(judge):
    with pytest.raises(ShapeError, match=r"\[B, 3, H, W\]"):
        judge.pooled(torch.rand(3, 64, 64))


def test_a_folder_without_a_judge_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"training/judges\.py"):
        Judge.load(tmp_path)


def test_a_truncated_file_is_refused(judge, tmp_path):
    write(judge, tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError):
        Judge.load(tmp_path)


def test_weights_of_another_judge_are_refused(judge, tmp_path):
    write(judge, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"concepts": ["a"]}))
    with pytest.raises(ModelError):
        Judge.load(tmp_path)


def test_the_bundled_judge_loads_and_is_small():
    judge = Judge.load()
    assert set(judge.styles) == {"noto", "twemoji", "fluent"}
    assert "red apple" in judge.concepts
    assert (BUNDLED / "model.safetensors").stat().st_size < 1_000_000
