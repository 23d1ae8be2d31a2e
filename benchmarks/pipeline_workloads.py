"""Pipelines with as many layers as released ones, each of them narrow.

What surrounds the networks costs what it costs at full size, beside network calls of a tenth of a
second.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from benchmarks.pipelines.parts import assemble

TOKENS, TEXT = 64, 64  # of a prompt, and the width of each


@dataclass(frozen=True)
class Family:
    """A pipeline and its arguments, text encoders left out.

    Attributes:
        title: for the table.
        size: what its networks are, for the table.
        make: builds the pipeline.
        arguments: of its call, besides the number of steps; embeddings instead of prompts.

    """

    title: str
    size: str
    make: Callable[[], Any]
    arguments: dict[str, Any]

    def build(self) -> Any:
        """The pipeline, its weights frozen."""
        pipe = self.make()
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        return pipe


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _sdxl() -> Any:
    network = {
        "sample_size": 32,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (32, 64, 128),
        "layers_per_block": 2,
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (1, 2, 4),
        "cross_attention_dim": TEXT,
        "norm_num_groups": 8,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 16,
    }
    return assemble(diffusers.StableDiffusionXLPipeline, {"unet": network})


def _flux() -> Any:
    network = {
        "in_channels": 16,
        "num_layers": 19,
        "num_single_layers": 38,
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "axes_dims_rope": (4, 6, 6),
        "joint_attention_dim": TEXT,
        "pooled_projection_dim": 16,
        "guidance_embeds": True,
    }
    return assemble(diffusers.FluxPipeline, {"transformer": network})


def _wan() -> Any:
    network = {
        "num_layers": 30,
        "num_attention_heads": 4,
        "attention_head_dim": 24,
        "ffn_dim": 256,
        "text_dim": TEXT,
        "freq_dim": 64,
    }
    return assemble(diffusers.WanPipeline, {"transformer": network})


FAMILIES = {
    "sdxl": Family(
        "`StableDiffusionXLPipeline`",
        "SDXL's UNet (70 transformer blocks) with 32, 64 and 128 channels instead of 320, 640 and "
        "1280; latents 4×32×32, two rows for guidance",
        _sdxl,
        {
            "height": 64,  # the tiny decoder doubles sizes once
            "width": 64,
            "guidance_scale": 5.0,
            "prompt_embeds": _random(1, TOKENS, TEXT, seed=1),
            "pooled_prompt_embeds": _random(1, 16, seed=2),
            "negative_prompt_embeds": _random(1, TOKENS, TEXT, seed=3),
            "negative_pooled_prompt_embeds": _random(1, 16, seed=4),
        },
    ),
    "flux": Family(
        "`FluxPipeline`",
        "Flux's transformer (19 double and 38 single blocks) with 64 channels instead of 3072; "
        "256 tokens of picture, 64 of text",
        _flux,
        {
            "height": 64,
            "width": 64,
            "guidance_scale": 3.5,
            "prompt_embeds": _random(1, TOKENS, TEXT, seed=1),
            "pooled_prompt_embeds": _random(1, 16, seed=2),
        },
    ),
    "wan": Family(
        "`WanPipeline`",
        "the transformer of Wan 1.3B (30 blocks) with 96 channels instead of 1536; 320 tokens of "
        "video, 64 of text, two calls a step for guidance",
        _wan,
        {
            "height": 32,
            "width": 32,
            "num_frames": 5,
            "guidance_scale": 5.0,
            "prompt_embeds": _random(1, TOKENS, TEXT, seed=1),
            "negative_prompt_embeds": _random(1, TOKENS, TEXT, seed=3),
        },
    ),
}
