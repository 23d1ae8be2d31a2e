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
    "hint": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(7)),
    "original_image": IMAGE,
    "image_embeddings": torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(8)),
    "example_image": IMAGE,
    "source_prompt": ["owl", "red fox"],
    "processing_resolution": 0,
    "control_mode": [0],
    "token_indices": [[1], [1]],
    "noise_level": 20,
    "use_resolution_binning": False,
    "clean_caption": False,
    "complex_human_instruction": None,
    "text_encoder_out_layers": (0, 1, 2),
}

CHANNELS = {  # of a UNet's input, where a picture, a depth or a mask is added to the latents
    "InstructPix2Pix": 8,
    "Marigold": 8,
    "LatentUpscale": 8,
    "StableDiffusionUpscale": 7,
    "Depth2Img": 5,
    "PaintByExample": 9,
    "LDMSuperResolution": 6,
}
MOVQ = {"norm_type": "spatial", "block_out_channels": (32, 32)}
BLOCKS = {"layers_per_block": 2}  # as ControlNet-XS wants them
PIXELS = {"in_channels": 3, "out_channels": 6, "encoder_hid_dim": WIDTH}
PIXELS_AND_SMALLER = {"in_channels": 6, "class_embed_type": "timestep"}


def guess(cls: type) -> Case:
    """A case whose arguments are told by their names, and networks by the parts beside them."""
    call = inspect.signature(inspect.unwrap(vars(cls).get("__call__", cls.__call__))).parameters
    arguments = {name: value for name, value in ARGUMENTS.items() if name in call}
    copied = "Kandinsky" in cls.__name__ and "mask_image" in call  # by deepcopy, a view of it
    constant = ("mask_image",) if copied else ()
    return Case(arguments, _networks(cls), shape=None, constant=constant)


def _networks(cls: type) -> dict[str, dict[str, Any]]:
    """What a UNet has besides, told by the pipeline's other parts and its name."""
    parts, name = inspect.signature(cls.__init__).parameters, cls.__name__
    number = next((number for key, number in CHANNELS.items() if key in name), None)
    channels = {} if number is None else {"in_channels": number}
    if "unet" in parts and {"text_encoder", "text_encoder_2"} <= set(parts):
        if "ControlNetXS" in name:
            return {"unet": SDXL_UNET | BLOCKS, "controlnet": {"cross_attention_dim": 2 * WIDTH}}
        controlled = {"controlnet": SDXL_UNET} if "controlnet" in parts else {}
        return {"unet": SDXL_UNET | channels} | controlled
    if "ControlNetXS" in name:
        return {"unet": BLOCKS}
    if channels:
        return {"unet": channels}
    if name.startswith("Kandinsky") and "3" not in name and "movq" in parts:
        return {"unet": _kandinsky_unet(name), "movq": MOVQ}
    if "movq" in parts:
        return {"movq": MOVQ}
    if name.startswith("IF"):
        return {"unet": PIXELS | (PIXELS_AND_SMALLER if "SuperResolution" in name else {})}
    return {}


def _kandinsky_unet(name: str) -> dict[str, Any]:
    kind = "image_hint" if "Controlnet" in name else "image" if "V22" in name else "text_image"
    made = {
        "out_channels": 8,
        "addition_embed_type": kind,
        "encoder_hid_dim": WIDTH,
        "encoder_hid_dim_type": "text_image_proj" if kind == "text_image" else "image_proj",
    }
    channels = 9 if "Inpaint" in name else 8 if kind == "image_hint" else 4
    return made | {"in_channels": channels}
