"""Tiny Stable Diffusion pipelines with random weights, made in memory: real classes, real
configurations, no files.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.pipelines.parts.encoders import tiny_tokenizer

STABLE_DIFFUSION_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
WIDTH = 16


def tiny_pipeline(
    folder: Path,
    scheduler: Any = None,
    seed: int = 0,
    unet: dict[str, Any] | None = None,
    **components: Any,
) -> StableDiffusionPipeline:
    """A pipeline of 16x16 pictures from 4x8x8 latents; `unet` overrides the UNet's configuration,
    `components` the pipeline's parts.
    """
    tokenizer = tiny_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=8,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
        network = UNet2DConditionModel(
            **{
                "sample_size": 8,
                "block_out_channels": (16, 32),
                "layers_per_block": 1,
                "norm_num_groups": 8,
                "attention_head_dim": 8,
                "cross_attention_dim": WIDTH,
                "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
                "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
                **(unet or {}),
            }
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        )
    scheduler = scheduler or DDIMScheduler(
        **STABLE_DIFFUSION_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    parts = {
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": network,
        "vae": vae,
        "safety_checker": None,
        "feature_extractor": None,
    }
    pipe = StableDiffusionPipeline(
        scheduler=scheduler, requires_safety_checker=False, **{**parts, **components}
    )
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        if module is not None:
            module.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock(pipe: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The stock pipeline's pictures or latents, with autograd left on."""
    return type(pipe).__call__.__wrapped__(pipe, *args, **{"output_type": "pt", **kwargs}).images
