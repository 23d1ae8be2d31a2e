"""What `generate` asks of any pipeline, in the words of the pipeline's own call."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from adjointdpm.errors import InvalidInputError
from adjointdpm.pipelines.arguments.prompting import prompt_arguments
from adjointdpm.pipelines.checks import check_prompts, check_seeds
from adjointdpm.pipelines.own_call.pipeline_call import call_parameters

_TEXTS = re.compile(r"(negative_)?prompt(_\d+)?")


def is_prompt(name: str) -> bool:
    """Whether an argument of this name takes a prompt, or a negative one, in words."""
    return _TEXTS.fullmatch(name) is not None


def is_encoded(name: str, encoded: Collection[str]) -> bool:
    """Whether an argument is a prompt in words whose encoding is among `encoded`."""
    found = _TEXTS.fullmatch(name)
    return found is not None and f"{found[1] or ''}prompt_embeds" in encoded


def generation_arguments(
    pipe: Any,
    batch: int,
    prompt: str | Sequence[str] | None,
    steps: int,
    guidance_scale: float | None,
    seeds: Sequence[int] | None,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """The arguments of the pipeline's call for `batch` samples, all but the noise.

    A text that stands for the whole batch becomes one for each sample: pipelines differ in what
    they make of it.

    Raises:
        PromptError: a prompt that the pipeline does not take.
        InvalidInputError: a guidance scale that it does not take, or seeds of another number.

    """
    names, given = call_parameters(pipe), dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, str) and is_prompt(name):
            given[name] = [value] * batch
    if prompt is not None:
        texts = check_prompts(prompt)
        texts = [texts] * batch if isinstance(texts, str) else texts
        given |= prompt_arguments(pipe, texts)
    if guidance_scale is not None:
        if "guidance_scale" not in names:
            others = [name for name in names if "guidance" in name]
            raise InvalidInputError(
                f"{type(pipe).__name__} takes no guidance_scale"
                + (f"; it has {', '.join(others)}" if others else "; leave it out")
            )
        given["guidance_scale"] = guidance_scale
    if "num_inference_steps" in names:
        given["num_inference_steps"] = steps
    if "batch_size" in names and prompt is None:
        given.setdefault("batch_size", batch)
    if "generator" in names and "generator" not in given:
        numbers = range(batch) if seeds is None else check_seeds(seeds, None)
        given["generator"] = [torch.Generator().manual_seed(number) for number in numbers]
    return given
