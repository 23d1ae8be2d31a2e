"""How one class of pipelines is run, small."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
TEXT = {"prompt": ["red fox", "owl"], "num_inference_steps": 3, "guidance_scale": 3.0}
SIZE = {"height": 16, "width": 16}
SHORT = {"max_sequence_length": 8}
PICTURE = (2, 3, 16, 16)
MASK = (IMAGE[:, :1] > 0.5).float()


@dataclass(frozen=True)
class Case:
    """How a class is run.

    Args:
        arguments: of the call.
        networks: what differs from the registry of tiny parts, by the part's name.
        shape: of what comes out; None where nobody has written it down.
        parts: makers of the parts and settings that the constructor's annotations do not tell.
        prepare: done to the pipeline once, before its call (an inversion, an adapter loaded).

    """

    arguments: dict[str, Any]
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    shape: tuple[int, ...] | None = PICTURE
    parts: dict[str, Callable[[], Any]] = field(default_factory=dict)
    prepare: Callable[[Any], None] | None = None
