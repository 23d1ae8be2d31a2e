"""The model itself as guard, where noise moves and no judge knows the prompt."""

import shutil
from typing import Any

import pytest
import torch

from adjointdpm import load
from adjointdpm.pipelines import from_pipeline
from adjointdpm.pipelines.any_pipeline import AnyPipeline
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks.guide import guide
from adjointdpm.tasks.guide_config import GuideConfig
from adjointdpm.tasks.judge_guard import judge_guard
from adjointdpm.tasks.prompt_fit import PromptFit
from helpers.tiny_pipelines import tiny_pipeline

PROMPT = "a noto emoji of a fox"


@torch.no_grad()
def test_a_picture_without_its_subject_is_refused() -> None:
    model = load("tiny")
    fox, other = (
        model.generate(prompt, model.noise(1, 5), steps=10, guidance_scale=5.0)
        for prompt in (PROMPT, "a twemoji emoji of a cookie")
    )
    fit = PromptFit.to(model, fox, PROMPT)
    assert fit is not None
    pictures = torch.cat([fox, fox.flip(-1), other, torch.full_like(fox, 0.9)])
    for recognise in (fit, fit.clearly()):
        assert recognise(pictures, [PROMPT] * 4) == [True, True, False, False]
    guard = judge_guard(fit, 1, looks=None, clearly=True)
    start, *later = ({"guard": x, "guard_error": 0.0} for x in guard.metric(pictures).tolist())
    assert [guard.accepts(look, start) for look in later] == [True, False, False]
    assert "no longer takes for" in guard.metric.name


def test_strictly_more_is_asked_of_what_must_be_clear() -> None:
    def score(images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.4, 0.3, 0.22, 0.1])

    anything: Any = score
    fit = PromptFit(anything, 0.4)
    pictures, prompts = torch.zeros(4, 3, 8, 8), [PROMPT] * 4
    assert fit(pictures, prompts) == [True, True, True, False]
    assert fit.clearly()(pictures, prompts) == [True, True, False, False]


def test_a_model_that_cannot_tell_is_not_asked(tmp_path) -> None:
    pipe, pictures = tiny_pipeline(tmp_path), torch.rand(1, 3, 16, 16)
    assert PromptFit.to(from_pipeline(pipe), pictures, PROMPT) is None  # an untrained network
    assert PromptFit.to(AnyPipeline(pipe), pictures, PROMPT) is None
    pipe.unet.config.encoder_hid_dim_type = "ip_image_proj"  # needs a picture beside the prompt
    assert PromptFit.to(from_pipeline(pipe), pictures, PROMPT) is None


@pytest.mark.parametrize(("preservation", "guarded"), [(0.2, True), (0.0, False)])
def test_noise_with_a_model_that_has_no_judge_is_guarded_by_the_model(
    tmp_path, preservation: float, guarded: bool
) -> None:
    config = GuideConfig(
        prompt=PROMPT,
        metric=["color:mood=dusk"],
        steps=4,
        iterations=2,
        preservation=preservation,
        tracker=[],
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "guide"}, artefacts=config.artefacts)
    guide(load("tiny"), config, folder)
    history = (folder.path / "history.jsonl").read_text()
    assert ('"guard"' in history) is guarded
    shutil.rmtree(folder.path)
