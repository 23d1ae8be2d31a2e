"""A model small enough to optimise in milliseconds, with the interface that the loop uses."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adjointdpm.metrics import resolve
from adjointdpm.samplers.base import standard_normal
from adjointdpm.variables import Variable


class ToyModel:
    """Pictures are smooth noise plus the colour that a prompt encodes."""

    def __init__(self) -> None:
        self.pipe = SimpleNamespace(unet=nn.Identity())

    def noise(self, batch: int, seed: int) -> Tensor:
        return standard_normal(torch.empty(batch, 3, 4, 4), seed, stream=0)

    def generate(self, prompt: Sequence[str], noise: Tensor, **_) -> Tensor:
        return torch.sigmoid(nn.functional.interpolate(self.pipe.unet(noise), (16, 16), mode="bilinear"))


class Tint(Variable):
    """A colour that is added to the noise."""

    def __init__(self) -> None:
        self.color = torch.zeros(3, requires_grad=True)

    def tensors(self) -> dict[str, Tensor]:
        return {"color": self.color}

    def apply(self, prompts: Sequence[str], noise: Tensor) -> tuple[list[str], Tensor]:
        return list(prompts), noise + self.color.view(1, 3, 1, 1)

    def save(self, folder: Path) -> Path:
        save_file({"color": self.color.detach()}, folder / "color.safetensors")
        return folder / "color.safetensors"


REDDISH = resolve("color:red=0.8,green=0.3,blue=0.3")
