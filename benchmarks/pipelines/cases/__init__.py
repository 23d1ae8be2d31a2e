"""One small call of each pipeline class: parts that differ from the registry's, and arguments."""

from typing import Any

import diffusers
import torch
from torch import nn

from benchmarks.pipelines.cases import transformers, unets, video_and_audio
from benchmarks.pipelines.cases.case import Case
from benchmarks.pipelines.parts import assemble

__all__ = ["CASES", "Case", "build", "denoiser", "shaping"]

CASES: dict[str, Case] = unets.CASES | transformers.CASES | video_and_audio.CASES
SHAPING = (  # arguments that decide the shape of the noise, or without which there is none
    *("image", "mask_image", "strength", "height", "width", "num_frames", "audio_end_in_s"),
    *("max_sequence_length", "use_resolution_binning", "complex_human_instruction"),
    "text_encoder_out_layers",
)


def build(name: str) -> Any:
    """The pipeline of a case, its weights frozen, silent."""
    pipe = assemble(getattr(diffusers, name), CASES[name].networks, **CASES[name].settings)
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
