"""Whether a picture still resembles the untouched one of its prompt."""

import pytest
import torch
from torch import Tensor

from adjointdpm.metrics.lost_subject import LostSubject
from adjointdpm.metrics.picture_resemblance import PictureResemblance


def drawing(seed: int, side: int = 48, color: tuple[float, float, float] = (1, 0, 0)) -> Tensor:
    """A few rectangles on white."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.ones(3, side, side)
    for _ in range(4):
        top, left = (torch.rand(2, generator=generator) * side * 0.7).long().tolist()
        height, width = (4 + torch.rand(2, generator=generator) * side / 3).long().tolist()
        picture[:, top : top + height, left : left + width] = torch.tensor(color)[:, None, None]
    return picture


PROMPTS = ["a fox", "a cup", "a tree", "a car"]


@pytest.fixture(params=[(0, 48), (1, 64), (2, 200)])
def untouched(request: pytest.FixtureRequest) -> Tensor:
    seed, side = request.param
    return torch.stack([drawing(10 * seed + i, side) for i in range(len(PROMPTS))])


def resemblance(images: Tensor) -> PictureResemblance:
    found = PictureResemblance.to(images, PROMPTS)
    assert found is not None
    return found


def test_colours_may_change_and_drawings_may_not(untouched: Tensor) -> None:
    resembles = resemblance(untouched)
    recoloured = 1 - untouched[:, [2, 0, 1]] * 0.7
    assert resembles(untouched, PROMPTS) == [True] * 4
    assert resembles(recoloured, PROMPTS) == [True] * 4
    assert resembles(untouched.roll(1, 0), PROMPTS) == [False] * 4
    assert resembles(torch.rand_like(untouched), PROMPTS) == [False] * 4


def test_any_untouched_picture_of_the_prompt_will_do(untouched: Tensor) -> None:
    prompts = ["a fox", "a fox", "a tree", "a car"]
    resembles = PictureResemblance.to(untouched, prompts)
    assert resembles is not None
    assert resembles(untouched[[1, 0]], ["a fox", "a fox"]) == [True, True]


def test_pictures_between_two_drawings_are_unclear_before_they_are_lost(untouched: Tensor) -> None:
    resembles = resemblance(untouched)
    lost = LostSubject(resembles, resembles.clearly())
    mixtures = [untouched.lerp(untouched.roll(1, 0), share) for share in torch.linspace(0, 1, 41)]
    values = torch.stack([lost(images, PROMPTS) for images in mixtures])
    assert (values[0] == 0).all()
    assert (values[-1] == 1).all()
    assert (values == 0.5).any()
    assert (values.diff(dim=0) >= 0).all()


def test_one_prompt_alone_cannot_be_told_from_others(untouched: Tensor) -> None:
    assert PictureResemblance.to(untouched, ["a fox"] * 4) is None


def test_its_guard_says_what_it_counts(untouched: Tensor) -> None:
    resembles = resemblance(untouched)
    assert "resemble" in LostSubject(resembles).name
    assert "judge" not in LostSubject(resembles).name
