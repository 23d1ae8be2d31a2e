"""The case of a pipeline class that nobody has written a case for, from its signatures."""

import inspect
from typing import Any

import torch

from benchmarks.pipelines.cases.case import IMAGE, MASK, SHORT, SIZE, TEXT, Case
from benchmarks.pipelines.parts.encoders import WIDTH
from benchmarks.pipelines.parts.unets import SDXL_UNET

# What an argument of this name gets, wherever a pipeline takes one.
ARGUMENTS: dict[str, Any] = {
    **TEXT,
    **SIZE,
    **SHORT,
    "prior_num_inference_steps": 2,
    "batch_size": 2,
    "class_labels": [1, 3],
    "num_frames": 5,
    "image": IMAGE,
    "mask_image": MASK,
    "control_image": IMAGE,
    "strength": 0.8,  # less than one: the picture handed over has a gradient too
    "image_embeds": torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(6)),
    "negative_image_embeds": torch.zeros(2, WIDTH),
    "hint": IMAGE[..., ::2, ::2],
    "use_resolution_binning": False,
    "clean_caption": False,
    "complex_human_instruction": None,
    "text_encoder_out_layers": (0, 1, 2),
}


def guess(cls: type) -> Case:
    """A case whose arguments are told by their names, and networks by the parts beside them."""
    call = inspect.signature(inspect.unwrap(vars(cls).get("__call__", cls.__call__))).parameters
    arguments = {name: value for name, value in ARGUMENTS.items() if name in call}
    return Case(arguments, _networks(inspect.signature(cls.__init__).parameters), shape=None)


def _networks(parts: Any) -> dict[str, dict[str, Any]]:
    if "unet" in parts and {"text_encoder", "text_encoder_2"} <= set(parts):
        return {name: SDXL_UNET for name in ("unet", "controlnet") if name in parts}
    return {}
