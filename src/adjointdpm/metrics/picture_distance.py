"""Distance to a reference picture, pixel by pixel or window by window."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from adjointdpm.errors import UnknownNameError
from adjointdpm.metrics.base import Images, Metric, Scores
from adjointdpm.metrics.networks.resize import resampled
from adjointdpm.metrics.reference_picture import Picture, reference_name, reference_picture

DISTANCES = ("l1", "l2", "ssim")


@dataclass(frozen=True, eq=False)
class Reference(Metric):
    """Distance to one picture; 0 for the same picture.

    The reference is resized to the size of the pictures that are scored.

    Args:
        reference: a picture file, or a tensor [3, H, W] in [0, 1].
        distance: "l1", the mean absolute difference; "l2", the mean squared difference; or "ssim",
            1 − SSIM in [0, 2], Wang et al. (2004, "Image quality assessment: from error visibility
            to structural similarity") with their window of 11 pixels.

    Raises:
        InvalidInputError: a reference that cannot be read.
        UnknownNameError: no such distance.

    """

    reference: Picture
    distance: str = "l2"

    def __post_init__(self) -> None:
        if self.distance not in DISTANCES:
            raise UnknownNameError(
                f"reference metric: distance {self.distance!r} is unknown; choose one of "
                f"{', '.join(DISTANCES)}"
            )
        _ = self._picture

    @property
    def name(self) -> str:
        """The text that makes this metric."""
        return f"reference:reference={reference_name(self.reference)},distance={self.distance}"

    @property
    def smallest(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One window of SSIM; a pixel for the other distances."""
        return 11 if self.distance == "ssim" else 1

    def __call__(self, images: Images, /, prompts: Sequence[str] | None = None) -> Scores:
        """Distance of each picture."""
        picture = self._picture.to(images)
        picture = resampled(picture, *images.shape[2:], mode="bilinear")
        difference = images - picture
        if self.distance == "l1":
            return difference.abs().mean((1, 2, 3))
        if self.distance == "l2":
            return difference.square().mean((1, 2, 3))
        # Imported here since it takes a second or two, and few need it.
        from torchmetrics.functional.image import structural_similarity_index_measure

        similarity = structural_similarity_index_measure(
            images, picture.expand_as(images), reduction="none", data_range=1.0
        )
        assert isinstance(similarity, Tensor)
        return 1 - similarity

    @cached_property
    def _picture(self) -> Tensor:
        return reference_picture(self.reference)
