"""The noises of an audit as files that replay them, a shard at a time."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adjointdpm.pipelines.arguments.call_arguments import plain_arguments
from adjointdpm.runs.folder import RunFolder
from adjointdpm.support import tensor_file
from adjointdpm.tasks.audit.clean_test import CleanExample
from adjointdpm.tasks.audit.noise_file import (
    LARGEST,
    noise_file_name,
    noise_folder_name,
    write_findings,
)
from adjointdpm.tasks.audit.setting import Setting, Target
from adjointdpm.tasks.audit.shared_blocks import SharedBlocks
from adjointdpm.variables import Example

IN_A_FILE = 256  # noises

Found = tuple[Example, str, str, Tensor]  # its label, the victim's verdict, and the noise


def write_noises(
    folder: RunFolder,
    setting: Setting,
    shared: SharedBlocks,
    names: Sequence[str],
    examples: Sequence[CleanExample],
    model_name: str,
) -> list[str]:
    """Write the noises of every target and budget; return the path of each within the folder.

    They are one file, or a folder of files of 256 noises where there are more.
    """
    facts = _facts(setting, model_name)
    paths = []
    words = dict(zip(setting.targets, setting.config.file_words, strict=True))
    most = _in_a_file(setting, examples)
    for target, budget, view in setting.views:
        count = sum(e.label != target.group for e in examples)
        single = folder.path / noise_file_name(budget, words[target])
        several = folder.path / noise_folder_name(budget, words[target])
        shutil.rmtree(several, ignore_errors=True)
        within = {"target": target.name, "within": setting.config.within, "budget": budget}
        found = _found(shared, names, target, view)
        for number, shard in enumerate(_shards(found, most)):
            path = single if count <= most else several / f"{number:05d}.safetensors"
            _write(path, setting, shard, facts | within)
        paths.append(str((single if count <= most else several).relative_to(folder.path)))
    return paths


def _found(
    shared: SharedBlocks, names: Sequence[str], target: Target, view: str
) -> Iterator[Found]:
    """What was found for a target within a budget, block by block."""
    for name in names:
        tensors, facts = tensor_file.read(shared.path(name), checksum=True)
        noises = iter(tensors.get(view, ()))
        for finding in facts["findings"]:
            for row in finding["attacks"]:
                if row["view"] == view:
                    example = Example(finding["prompt"], finding["seed"])
                    yield example, finding["label"], row["verdict"], next(noises)


def _in_a_file(setting: Setting, examples: Sequence[CleanExample]) -> int:
    """How many noises go into a file: fewer if they are large, as a reader has a bound."""
    noise = setting.render.noise_of(examples[0].example)
    return max(1, min(IN_A_FILE, LARGEST // 2 // (2 * 4 * noise.numel())))


def _shards(found: Iterator[Found], most: int) -> Iterator[list[Found]]:
    shard: list[Found] = []
    for one in found:
        shard.append(one)
        if len(shard) == most:
            yield shard
            shard = []
    if shard:
        yield shard


def _write(path: Path, setting: Setting, shard: list[Found], facts: dict[str, Any]) -> None:
    examples = [example for example, *_ in shard]
    start = torch.cat([setting.render.noise_of(example).cpu() for example in examples])
    noise = torch.stack([noise for *_, noise in shard])
    named = {
        "labels": [label for _, label, _, _ in shard],
        "verdicts": [verdict for _, _, verdict, _ in shard],
    }
    write_findings(path, examples, noise, start, facts | named)


def _facts(setting: Setting, model_name: str) -> dict[str, Any]:
    """What it takes to draw again, and to load the victim with the same classes."""
    config = setting.config
    # One prompt of each class names the same classes as all prompts do.
    naming = {label: config.prompts[number] for number, label in setting.labels.items()}
    return {
        "model": model_name,
        "victim": config.victim,
        "prompts": list(naming.values()),
        "steps": config.steps,
        "guidance_scale": config.guidance_scale,
        "sampler": config.sampler,
        "pipeline_arg": plain_arguments(config.pipeline_arg),
    }
