"""What counts as lost, and what half."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adjointdpm.metrics.lost_subject import LostSubject


def colourful(images: Tensor, prompts: Sequence[str]) -> list[bool]:
    """Finds what is not grey."""
    return ((images[:, 0] - images[:, 2]).abs().amax((1, 2)) > 1e-3).tolist()


def bright(images: Tensor, prompts: Sequence[str]) -> list[bool]:
    """Finds what has white pixels."""
    return (images.amax((1, 2, 3)) >= 1).tolist()


def test_what_is_unclear_counts_half() -> None:
    images = torch.zeros(3, 3, 8, 8)
    images[0, :, :4] = 1.0  # grey, with white
    images[1, 0] = 0.5  # coloured, without
    images[2, 0, :4] = 1.0
    prompts = ["a", "b", "c"]
    assert LostSubject(colourful)(images, prompts).tolist() == [1, 0, 0]
    assert LostSubject(colourful, bright)(images, prompts).tolist() == [0.5, 0.5, 0]
    assert "unsure" in LostSubject(colourful, bright).name
    assert "unsure" not in LostSubject(colourful).name


def test_of_a_video_the_frame_in_the_middle_is_looked_at() -> None:
    videos = torch.zeros(1, 5, 3, 8, 8)
    videos[:, 2, 0] = 0.5
    assert LostSubject(colourful)(videos, ["a"]).tolist() == [0]
    assert LostSubject(colourful)(videos.roll(1, 1), ["a"]).tolist() == [1]
