"""How one class of pipelines is run, small."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
TEXT = {"prompt": ["red fox", "owl"], "num_inference_steps": 3, "guidance_scale": 3.0}
SIZE = {"height": 16, "width": 16}
SHORT = {"max_sequence_length": 8}
VIDEO = torch.stack([IMAGE, IMAGE.flip(-1)], 1)
MASK = (IMAGE[:, :1] > 0.5).float()
PICTURE = (2, 3, 16, 16)


def latents(seed: int, *shape: int) -> torch.Tensor:
    """Random numbers for two samples."""
    return torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))


def picture(seed: int, size: int = 16) -> Image.Image:
    """A random PIL picture."""
    pixels = torch.rand(size, size, 3, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((255 * pixels).byte().numpy())


def nothing() -> None:
    """A part that the call does without."""


@dataclass(frozen=True)
class Case:
    """How a class is run.

    Args:
        given: the arguments of the call.
        networks: what differs from the registry of tiny parts, by the part's name.
        shape: of what comes out; None where nobody has written it down.
        parts: makers of the parts and settings that the constructor's annotations do not tell.
        samples: for how many of them noise is drawn, where it is not that of what comes out.
        output: of the model's call.
        constant: tensors among the arguments that the stock code refuses if they require grad.
        prepare: done to the pipeline once, before its call (an inversion, an adapter loaded).

    """

    given: dict[str, Any]
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    shape: tuple[int, ...] | None = PICTURE
    parts: dict[str, Callable[..., Any]] = field(default_factory=dict)
    samples: int | None = None
    output: str = "sample"
    constant: tuple[str, ...] = ()
    prepare: Callable[[Any], None] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the call, with lists of their own: some pipelines write into theirs."""
        return {n: list(v) if isinstance(v, list) else v for n, v in self.given.items()}

    @property
    def count(self) -> int:
        """How many samples noise is drawn for."""
        return self.samples or (2 if self.shape is None else self.shape[0])
