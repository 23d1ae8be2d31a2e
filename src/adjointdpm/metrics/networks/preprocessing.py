"""What the processors of vision models do to a picture, as differentiable torch operations."""

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import ModelError
from adjointdpm.metrics.networks.resize import check_pictures, resampled

# Mean and standard deviation of the pixels, R, G, B, with which all of OpenAI's and most others'
# CLIP models were trained.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_BICUBIC = 3  # as Pillow counts


@dataclass(frozen=True)
class Preprocessing:
    """Bicubic resize with antialiasing, a square of it, and normalisation.

    It equals the official processors' but for their 8-bit pixels: nothing is rounded or clipped
    here, so that gradients pass.

    Args:
        size: pixels a side of the result.
        fit: how the picture becomes a square. "crop": its shorter side gets `short` pixels, and the
            middle is kept. "pad": its longer side gets `size` pixels, and the rest is black.
            "squash": both sides get `size` pixels.
        short: pixels of the shorter side before the crop; None for `size`.
        rounds: where a crop cannot be central, round half to even as torchvision's CenterCrop does
            instead of down.
        mean, std: of the pixels in [0, 1].

    """

    size: int
    fit: Literal["crop", "pad", "squash"] = "crop"
    short: int | None = None
    rounds: bool = False
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    @classmethod
    def read(cls, settings: dict[str, Any], size: int) -> Self:
        """Read `preprocessor_config.json` in transformers' layout.

        Args:
            settings: its content; what it leaves out is as in CLIP's.
            size: pixels a side that the network takes.

        Raises:
            ModelError: the settings ask for something else than this class does.

        """
        given, crop = settings.get("size", size), settings.get("crop_size", size)
        short = given.get("shortest_edge") if isinstance(given, dict) else given
        square = {crop} if isinstance(crop, int) else {*crop.values()}
        wanted = {name: settings.get(f"do_{name}", True) for name in ("resize", "normalize")}
        if settings.get("resample", _BICUBIC) != _BICUBIC or not all(wanted.values()):
            raise ModelError(
                f"preprocessor_config.json: resample={settings.get('resample', _BICUBIC)}, "
                f"{wanted} cannot be followed; only bicubic (3) with resize and normalize can"
            )
        mean, std = (
            tuple(settings.get(key, value))
            for key, value in (("image_mean", MEAN), ("image_std", STD))
        )
        if settings.get("do_center_crop", True) and short is not None and square == {size}:
            if short >= size:
                return cls(size, "crop", short, mean=mean, std=std)
        elif isinstance(given, dict) and {given.get("height"), given.get("width")} == {size}:
            return cls(size, "squash", mean=mean, std=std)
        raise ModelError(
            f"preprocessor_config.json: size={given}, crop_size={crop} do not give the "
            f"{size}×{size} pixels that the network takes"
        )

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 size size"]:
        """The network's pixels of images in [0, 1] of at least 8×8 pixels."""
        check_pictures(images)
        wide = images.to(torch.promote_types(images.dtype, torch.float32))
        mean, std = (wide.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return ((self._square(wide) - mean) / std).to(images.dtype)

    def _square(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.fit == "squash":
            return resampled(images, self.size, self.size, "bicubic")
        if self.fit == "pad":
            scale = self.size / max(height, width)
            images = resampled(images, round(height * scale), round(width * scale), "bicubic")
            down, across = (self.size - side for side in images.shape[-2:])
            return F.pad(images, (across // 2, across - across // 2, down // 2, down - down // 2))
        short = self.short or self.size
        images = resampled(
            images,
            *(
                short if side <= min(height, width) else int(short * side / min(height, width))
                for side in (height, width)
            ),
            mode="bicubic",
        )
        top, left = (self._margin(side - self.size) for side in images.shape[-2:])
        return images[..., top : top + self.size, left : left + self.size]

    def _margin(self, spare: int) -> int:
        return round(spare / 2) if self.rounds else spare // 2
