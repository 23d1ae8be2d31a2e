"""One small call of each pipeline class: parts that differ from the registry's, and arguments."""

from typing import Any

import diffusers
import torch
from torch import nn

from benchmarks.pipelines.cases import transformers, unets, video_and_audio
from benchmarks.pipelines.cases.case import Case
from benchmarks.pipelines.cases.guess import guess
from benchmarks.pipelines.parts import assemble

__all__ = ["CASES", "REASONS", "Case", "build", "case_for", "denoiser", "for_one_sample", "shaping"]

CASES: dict[str, Case] = unets.CASES | transformers.CASES | video_and_audio.CASES
REASONS = unets.REASONS | transformers.REASONS | video_and_audio.REASONS
# Arguments with an entry for each sample, which `model.noise` does without.
PER_SAMPLE = ("prompt", "prompt_2", "negative_prompt", "class_labels", "batch_size", "generator")
LISTED = (
    "source_prompt",
    "image",
    "reference_image",
    "control_image",
    "source_subject_category",
    "target_subject_category",
)


def case_for(name: str) -> Case:
    """The case of a class: the one that is written down, or else a guess by names."""
    return CASES[name] if name in CASES else guess(getattr(diffusers, name))


def build(name: str) -> Any:
    """The pipeline of a case, its weights frozen, silent."""
    case = case_for(name)
    given = {part: make() for part, make in case.parts.items()}
    pipe = assemble(getattr(diffusers, name), case.networks, **given)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    if case.prepare is not None:
        case.prepare(pipe)
    return pipe


def denoiser(pipe: Any) -> nn.Module:
    """The network of the loop."""
    return getattr(pipe, "unet", None) or pipe.transformer


def shaping(name: str) -> dict[str, Any]:
    """The arguments that `model.noise` needs, for one sample."""
    return for_one_sample(case_for(name).arguments)


def for_one_sample(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call as `model.noise` takes them."""
    return {
        key: _first(key, value)
        for key, value in arguments.items()
        if key not in PER_SAMPLE or isinstance(value, str)
    }


def _first(key: str, value: Any) -> Any:
    """What belongs to the first sample."""
    if isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
        return [tensor[:1] for tensor in value]
    listed = isinstance(value, list) and key in LISTED
    return value[:1] if listed or isinstance(value, torch.Tensor) else value
