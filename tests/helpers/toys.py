"""A model small enough to optimise in milliseconds, with the interface that the loop uses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adjointdpm.engine.seeded_noise import standard_normal
from adjointdpm.metrics import resolve
from adjointdpm.variables import Inputs, Variable


class ToyModel:
    """Pictures are smooth noise plus the colour that a prompt encodes."""

    def __init__(self) -> None:
        self.pipe = SimpleNamespace(unet=nn.Identity(), components={})

    def noise(self, batch: int, seed: int) -> Tensor:
        return standard_normal(torch.empty(batch, 3, 4, 4), seed, stream=0)

    def generate(self, prompt: Sequence[str], noise: Tensor, **_) -> Tensor:
        return torch.sigmoid(
            nn.functional.interpolate(self.pipe.unet(noise), (16, 16), mode="bilinear")
        )


class Tint(Variable):
    """A colour that is added to the noise."""

    artefacts = ("color.safetensors",)

    def __init__(self) -> None:
        self.color = torch.zeros(3, requires_grad=True)

    def tensors(self) -> dict[str, Tensor]:
        return {"color": self.color}

    @contextmanager
    def disabled(self) -> Iterator[None]:
        yield  # it changes what the model is asked for, and not the model

    def apply(self, inputs: Inputs) -> Inputs:
        return replace(inputs, noise=inputs.noise + self.color.view(1, 3, 1, 1))

    def regularisers(self) -> dict[str, Tensor]:
        return {"distance": self.color.square().sum()}

    def save(self, folder: Path) -> Path:
        save_file({"color": self.color.detach()}, folder / "color.safetensors")
        return folder / "color.safetensors"


class Recolored(Tint):
    """A colour that is part of the model, inside the variable's context and unless disabled."""

    def __init__(self, model: ToyModel) -> None:
        super().__init__()
        self.pipe, self.plain = model.pipe, model.pipe.unet

    def apply(self, inputs: Inputs) -> Inputs:
        return inputs

    def __enter__(self) -> Self:
        self.pipe.unet = _Add(self.color)
        return self

    def __exit__(self, *_: object) -> None:
        self.pipe.unet = self.plain

    @contextmanager
    def disabled(self) -> Iterator[None]:
        inside, self.pipe.unet = self.pipe.unet, self.plain
        try:
            yield
        finally:
            self.pipe.unet = inside


class _Add(nn.Module):
    def __init__(self, color: Tensor) -> None:
        super().__init__()
        self.color = [color]

    def forward(self, noise: Tensor) -> Tensor:
        return noise + self.color[0].view(1, 3, 1, 1)


REDDISH = resolve("color:red=0.8,green=0.3,blue=0.3")
