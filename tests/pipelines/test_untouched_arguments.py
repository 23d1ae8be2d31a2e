"""What a caller hands over stays as it was, and so does what a pipeline asks of its parts."""

from typing import Any

import torch
from torch import Tensor

from adjointdpm.pipelines.any_pipeline import AnyPipeline
from benchmarks.pipelines.cases import build, case_for, shaping


def drawn(name: str, model: AnyPipeline, **changes: Any) -> Tensor:
    noise = model.noise(2, 1, **shaping(name))
    with torch.no_grad():
        return model(noise=noise, **(dict(case_for(name).arguments) | changes))


def test_a_list_of_prompts_that_the_pipeline_writes_into_stays_as_it_was() -> None:
    name, texts = "ZImagePipeline", ["red fox", "owl"]
    model = AnyPipeline(build(name))
    first = drawn(name, model, prompt=texts)
    assert texts == ["red fox", "owl"]
    assert torch.equal(drawn(name, model, prompt=texts), first)


def test_a_pipeline_finds_the_very_class_of_its_scheduler() -> None:
    name, seen = "BriaPipeline", []
    model = AnyPipeline(build(name))  # its call asks for the class by type(…) !=

    def look(pipe: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(type(pipe.scheduler))
        return tensors

    drawn(name, model, callback_on_step_end=look)
    assert set(seen) == {type(model.pipe.scheduler)}
