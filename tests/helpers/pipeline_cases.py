"""One small call of each pipeline class that the tests run: parts that differ, and arguments."""

from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import nn

from helpers.tiny_components import WIDTH, assemble

IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
TEXT = {"prompt": ["red fox", "owl"], "num_inference_steps": 3, "guidance_scale": 3.0}
SIZE = {"height": 16, "width": 16}
SHORT = {"max_sequence_length": 8}
PICTURE = (2, 3, 16, 16)
SDXL_UNET = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
    "cross_attention_dim": 2 * WIDTH,
}


@dataclass(frozen=True)
class Case:
    """How a class is run.

    Args:
        arguments: of the call.
        networks: what differs from the registry of tiny parts, by the part's name.
        shape: of what comes out.

    """

    arguments: dict[str, Any]
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)
    shape: tuple[int, ...] = PICTURE


CASES: dict[str, Case] = {
    # UNets, and what stands beside them
    "StableDiffusionPipeline": Case(TEXT | {"guidance_rescale": 0.5, "eta": 0.5}),
    "StableDiffusionXLPipeline": Case(TEXT | SIZE, {"unet": SDXL_UNET}),
    "StableDiffusionImg2ImgPipeline": Case(TEXT | {"image": IMAGE, "strength": 1.0}),
    "StableDiffusionInpaintPipeline": Case(
        TEXT | SIZE | {"image": IMAGE, "mask_image": (IMAGE[:, :1] > 0.5).float()}
    ),
    "StableDiffusionControlNetPipeline": Case(TEXT | {"image": IMAGE}),
    "StableDiffusionAdapterPipeline": Case(TEXT | SIZE | {"image": IMAGE}),
    "StableDiffusionPAGPipeline": Case(TEXT | {"pag_scale": 2.0}),
    "LatentConsistencyModelPipeline": Case(TEXT | SIZE, {"unet": {"time_cond_proj_dim": 8}}),
    "AnimateDiffPipeline": Case(TEXT | SIZE | {"num_frames": 2}, shape=(2, 2, 3, 16, 16)),
    # transformers
    "StableDiffusion3Pipeline": Case(TEXT | SIZE | SHORT, {"text_encoder_3": {"width": 2 * WIDTH}}),
    "FluxPipeline": Case(TEXT | SIZE | SHORT),
    "Flux2KleinPipeline": Case(TEXT | SIZE | SHORT | {"text_encoder_out_layers": (0, 1, 2)}),
    "ChromaPipeline": Case(TEXT | SIZE | SHORT),
    "QwenImagePipeline": Case(
        TEXT
        | SIZE
        | SHORT
        | {"true_cfg_scale": 2.0, "negative_prompt": ["blurry", "a"], "guidance_scale": None}
    ),
    "ZImagePipeline": Case(TEXT | SIZE | SHORT),
    "AuraFlowPipeline": Case(TEXT | SIZE | SHORT),
    "Lumina2Pipeline": Case(TEXT | SIZE | SHORT, shape=(2, 3, 4, 4)),
    "PixArtSigmaPipeline": Case(TEXT | SIZE | SHORT | {"use_resolution_binning": False}),
    "SanaPipeline": Case(
        TEXT
        | SHORT
        | {
            "height": 32,
            "width": 32,
            "use_resolution_binning": False,
            "complex_human_instruction": None,
        },
        shape=(2, 3, 32, 32),
    ),
    # video and sound
    "WanPipeline": Case(TEXT | SIZE | SHORT | {"num_frames": 3}, shape=(2, 4, 3, 16, 16)),
    "CogVideoXPipeline": Case(TEXT | SIZE | SHORT | {"num_frames": 5}, shape=(2, 8, 3, 16, 16)),
    "LTXPipeline": Case(
        TEXT | SHORT | {"height": 32, "width": 32, "num_frames": 5}, shape=(2, 5, 3, 32, 32)
    ),
    "StableAudioPipeline": Case(
        {"prompt": ["red fox", "owl"], "num_inference_steps": 3, "audio_end_in_s": 1.0},
        shape=(2, 2, 4),
    ),
    # without a prompt
    "DiTPipeline": Case({"class_labels": [1, 3], "num_inference_steps": 3, "guidance_scale": 3.0}),
    "DDPMPipeline": Case({"batch_size": 2, "num_inference_steps": 3}, shape=(2, 3, 8, 8)),
}
SHAPING = (  # arguments that decide the shape of the noise, or without which there is none
    *("image", "mask_image", "strength", "height", "width", "num_frames", "audio_end_in_s"),
    *("max_sequence_length", "use_resolution_binning", "complex_human_instruction"),
    "text_encoder_out_layers",
)


def build(name: str) -> Any:
    """The pipeline of a case, its weights frozen, silent."""
    pipe = assemble(getattr(diffusers, name), CASES[name].networks)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    return pipe


def denoiser(pipe: Any) -> nn.Module:
    """The network of the loop."""
    return getattr(pipe, "unet", None) or pipe.transformer


def shaping(name: str) -> dict[str, Any]:
    """The arguments that `model.noise` needs, for one sample."""
    given = {key: CASES[name].arguments[key] for key in SHAPING if key in CASES[name].arguments}
    return {
        key: value[:1] if isinstance(value, torch.Tensor) else value for key, value in given.items()
    }
