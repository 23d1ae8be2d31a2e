"""A token learned for a moment: what it says of a sentence, and that it leaves no trace."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm import metrics
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import from_pipeline
from adjointdpm.pipelines.stable_diffusion import StableDiffusion
from adjointdpm.tasks.sentence_trial import SentenceTrial
from adjointdpm.variables import Example
from helpers.contents import Loses
from helpers.tiny_pipelines import tiny_pipeline

TEMPLATE = "{prompt} {token}"


@pytest.fixture
def model(tmp_path: Path) -> StableDiffusion:
    return from_pipeline(tiny_pipeline(tmp_path))


def bright(images: Tensor) -> Tensor:
    return -1e3 * images.mean((1, 2, 3))  # words hardly act on weights at random


def trial(model: StableDiffusion, **changes: Any) -> SentenceTrial:
    values: dict[str, Any] = {
        "render": Renderer(model, 4, 3.0),
        "metric": metrics.resolve(bright),
        "preservation": 0.0,
        "token": "<x>",
        "vectors": 1,
        "max_norm": 100.0,
        "lr": 2.0,
        "training": [Example("fox", 0), Example("owl", 1)],
        "looked_at": [Example("fox", 7), Example("owl", 8)],
    }
    return SentenceTrial(**values | changes)


def test_it_gets_further_than_the_start_and_further_with_longer_steps(model) -> None:
    still, near, far = (trial(model, lr=lr)(TEMPLATE, "red") for lr in (1e-9, 0.1, 2.0))
    assert still is not None
    assert near is not None
    assert far is not None
    assert far < near < still


def test_the_pipeline_is_as_it_was(model) -> None:
    before = {name: value.clone() for name, value in model.pipe.unet.state_dict().items()}
    table, size = model.pipe.text_encoder.get_input_embeddings(), len(model.pipe.tokenizer)
    trial(model)(TEMPLATE, "red")
    assert model.pipe.text_encoder.get_input_embeddings() is table
    assert len(model.pipe.tokenizer) == size
    assert all(torch.equal(value, before[n]) for n, value in model.pipe.unet.state_dict().items())


def test_where_subjects_are_lost_there_is_no_value(model) -> None:
    calls: list[int] = []

    def lost(images: Tensor, prompts: Any) -> float:
        calls.append(len(images))
        return len(calls) % 2.0  # the drawn ones lose, the plain ones do not

    assert trial(model, content=Loses(lost))(TEMPLATE, "red") is None
    always = Loses(lambda images, prompts: 1.0)
    assert trial(model, content=always)(TEMPLATE, "red") is not None


def test_what_is_gained_by_losing_more_subjects_counts_as_nothing(model) -> None:
    asked: list[int] = []

    def lost(images: Tensor, prompts: Any) -> float:
        asked.append(len(images))
        return float(len(asked) > 2 and len(asked) % 2)  # drawn after learning, and only then

    start = trial(model, lr=1e-9)(TEMPLATE, "red")
    assert trial(model, content=Loses(lost))(TEMPLATE, "red") == start
    assert len(asked) == 4
