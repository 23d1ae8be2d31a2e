"""What counts as lost: in changed views too, and by two verdicts."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from adjointdpm.metrics.changed_views import changed_views, repainted
from adjointdpm.metrics.lost_subject import LostSubject, WorseOf


def squares(size: int = 32) -> Tensor:
    """Three pictures of a square in the middle, a wide bar and noise."""
    images = torch.zeros(3, 3, size, size)
    images[0, :, 8:24, 8:24] = 1.0
    images[1, 0, 12:20, :] = 0.5
    images[2] = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    return images


@pytest.mark.parametrize("side", [(32, 32), (24, 40), (9, 7)])
def test_changed_views_are_pictures_of_the_same_shape_and_range(side) -> None:
    images = torch.rand(2, 3, *side)
    views = changed_views(images)
    assert len(views) == 10
    assert torch.equal(views[0], images)
    for view in views:
        assert view.shape == images.shape
        assert view.min() >= 0
        assert view.max() <= 1
    assert all(not torch.equal(view, images) for view in views[1:])


def test_a_shifted_view_is_the_picture_moved_with_its_border_repeated() -> None:
    images = squares()
    _, mirrored, darker, brighter, grey, *shifted, coarser = changed_views(images)
    assert torch.equal(mirrored.flip(-1), images)
    assert torch.equal(darker, images * 0.8)
    assert torch.equal(brighter, (images * 1.2).clamp(max=1))
    assert torch.equal(grey[:, 0], grey[:, 2])
    down, up, right, left = shifted
    assert torch.equal(down[..., 2:, :], images[..., :-2, :])
    assert torch.equal(down[..., 0, :], images[..., 0, :])
    assert torch.equal(up[..., :-2, :], images[..., 2:, :])
    assert torch.equal(right[..., 2:], images[..., :-2])
    assert torch.equal(left[..., :-2], images[..., 2:])
    torch.testing.assert_close(coarser.mean((2, 3)), images.mean((2, 3)), atol=0.02, rtol=0)


def test_repainted_pictures_have_every_order_of_their_colours() -> None:
    images = torch.rand(2, 3, 4, 5)
    same, *others = repainted(images)
    assert torch.equal(same, images)
    assert len(others) == 5
    for other in others:
        assert not torch.equal(other, images)
        assert torch.equal(other.sort(1).values, images.sort(1).values)


def colourful(images: Tensor, prompts: Sequence[str]) -> list[bool]:
    """Finds what is not grey."""
    return ((images[:, 0] - images[:, 2]).abs().amax((1, 2)) > 1e-3).tolist()


def bright(images: Tensor, prompts: Sequence[str]) -> list[bool]:
    """Finds what has white pixels."""
    return (images.amax((1, 2, 3)) >= 1).tolist()


def test_each_view_counts_as_a_picture() -> None:
    images, prompts = squares(), ["a", "b", "c"]
    plain, viewed = LostSubject(colourful), LostSubject(colourful, views=True)
    assert plain(images, prompts).tolist() == [1, 0, 0]
    torch.testing.assert_close(viewed(images, prompts), torch.tensor([1.0, 0.1, 0.1]))  # the grey
    both = LostSubject(colourful, bright, views=True)
    # White: found in all views but the darker one, never coloured. The bar: coloured in nine views.
    torch.testing.assert_close(both(images, prompts)[:2], torch.tensor([0.55, 0.55]))
    assert "changed views" in viewed.name
    assert "changed views" not in plain.name


class Says(LostSubject):
    """Known shares."""

    def __init__(self, *shares: float) -> None:
        super().__init__(colourful)
        object.__setattr__(self, "shares", shares)

    def __call__(self, samples: Tensor, /, prompts: Sequence[str] | None = None) -> Tensor:
        return torch.tensor(self.shares)  # type: ignore[attr-defined]


def test_what_either_finds_lost_is_lost() -> None:
    first, second = Says(0.0, 0.0, 0.05, 0.05, 0.6), Says(0.0, 1.0, 0.0, 1.0, 0.0)
    found = WorseOf(first, second)(torch.zeros(5, 3, 4, 4), list("abcde"))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.05, 1.0, 0.6]))
    assert WorseOf(first, second).name.count("share of") == 2
