"""The judge as guard: how many subjects may be lost, and what counts as half lost."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import PromptError
from adjointdpm.metrics.subject_recognition import SubjectJudge
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import from_pipeline
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks import embed as embed_room
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.tasks.judge_guard import judge_guard, resemblance
from adjointdpm.variables import Example
from helpers.tiny_pipelines import tiny_pipeline

PICTURES = torch.zeros(1, 3, 4, 4)


class Ranked:
    """A judge for which "a" is the likeliest, then "b", and so on."""

    concepts = tuple("abcdefgh")

    def concept_logits(self, images: Tensor) -> Tensor:
        return -torch.arange(8.0).expand(len(images), 8)


def test_a_single_picture_must_keep_the_first_place_if_it_had_it() -> None:
    judge: Any = Ranked()
    guard = judge_guard(SubjectJudge(judge), 1, looks=None, clearly=True)
    first, among, lost = (
        {"guard": guard.metric(PICTURES, [name]).item(), "guard_error": 0.0} for name in "abg"
    )
    assert [look["guard"] for look in (first, among, lost)] == [0.0, 0.5, 1.0]
    assert guard.accepts(first, first)
    assert not guard.accepts(among, first)
    assert guard.accepts(among, among)  # it was no clearer before
    assert not guard.accepts(lost, among)


def test_one_of_the_first_five_is_enough_for_many_pictures_and_for_another_recogniser() -> None:
    judge: Any = Ranked()
    many = judge_guard(SubjectJudge(judge), 8)
    assert many.metric(PICTURES, ["b"]).item() == 0
    choice = many.for_choice()
    assert [choice.metric(PICTURES, [name]).item() for name in "abg"] == [0.0, 0.5, 1.0]
    assert choice.bound == many.bound
    assert "unsure" in choice.metric.name
    assert "unsure" not in many.metric.name
    other = judge_guard(lambda images, prompts: [True], 1, clearly=True)
    assert other.metric(PICTURES, ["b"]).item() == 0
    assert other.for_choice().metric(PICTURES, ["b"]).item() == 0


@pytest.mark.parametrize(
    ("judged", "prompts", "guarded"),
    [(True, ["fox", "owl"], True), (False, ["fox", "owl"], True), (False, ["fox"], False)],
)
def test_words_are_compared_by_the_metric_alone_where_a_guard_keeps_the_content(
    tmp_path, monkeypatch, judged: bool, prompts: list[str], guarded: bool
) -> None:
    weights: list[float] = []

    class Probe(embed_room.TemplateProbe):
        def choose(self, own: str | None = None) -> Any:
            weights.extend([self.pictures.preservation, self.trial.preservation])  # type: ignore[union-attr]
            raise PromptError("seen enough")

    monkeypatch.setattr(embed_room, "TemplateProbe", Probe)
    model = from_pipeline(tiny_pipeline(tmp_path / "model"))
    config = EmbedConfig(
        token="<x>", prompts=prompts, held_out=["cat"], metric=["color:mood=dusk"], steps=2
    )
    folder = RunFolder.open(tmp_path / "run", {"task": "embed"})
    recognise = (lambda images, prompts: [True] * len(images)) if judged else None
    with pytest.raises(PromptError, match="seen"):
        embed(model, config, folder, recognise=recognise)
    assert weights == ([0.0, 0.0] if guarded else [config.preservation] * 2)


def test_resemblance_knows_pictures_as_rough_as_those_it_is_asked_for(tmp_path) -> None:
    render = Renderer(from_pipeline(tiny_pipeline(tmp_path)), steps=4, guidance_scale=2.0)
    examples = [Example("fox", 1), Example("red fox", 2), Example("fox", 3)]
    assert resemblance(render, [examples[0], examples[2]]) is None  # one prompt alone
    plain, rough = resemblance(render, examples), resemblance(render, examples, (1, 9))
    assert plain is not None
    assert rough is not None
    assert [len(images) for images in plain.untouched.values()] == [2, 1]
    assert [len(images) for images in rough.untouched.values()] == [4, 2]  # 9 steps are not rougher
    prompts = [example.prompt for example in examples]
    assert all(rough(replace(render, steps=1).look(examples), prompts))
