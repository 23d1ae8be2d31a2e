"""The judge as guard: how many subjects may be lost, and what counts as half lost."""

from typing import Any

import pytest
import torch
from torch import Tensor

from adjointdpm.errors import PromptError
from adjointdpm.metrics.picture_resemblance import PictureResemblance
from adjointdpm.metrics.subject_recognition import SubjectJudge
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.pipelines import from_pipeline
from adjointdpm.runs.folder import RunFolder
from adjointdpm.tasks import embed as embed_room
from adjointdpm.tasks.align import AlignConfig
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.tasks.judge_guard import (
    ContentCheck,
    judge_guard,
    resemblance,
    told_of_untouched,
)
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
    assert guard.way_back is not None
    assert judge_guard(SubjectJudge(judge), 1).way_back is None


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


def test_resemblance_is_to_the_untouched_pictures_of_the_examples(tmp_path) -> None:
    render = Renderer(from_pipeline(tiny_pipeline(tmp_path)), steps=4, guidance_scale=2.0)
    examples = [Example("fox", 1), Example("red fox", 2), Example("fox", 3)]
    assert resemblance(render, [examples[0], examples[2]]) is None  # one prompt alone
    plain = resemblance(render, examples)
    assert plain is not None
    assert [len(images) for images in plain.untouched.values()] == [2, 1]
    assert all(plain(render.look(examples), [example.prompt for example in examples]))


def striped(along: int, shift: int) -> Tensor:
    """A picture with lines along one dimension."""
    line = (torch.arange(32) + shift) // 4 % 2
    return line.float().expand(32, 32).transpose(0, along).expand(3, 32, 32)


def test_without_a_judge_content_is_compared_with_the_pictures_that_are_given() -> None:
    """Rough pictures with rough ones, finer with finer: each stage gives its own."""
    prompts = ["across", "down"]
    untouched = torch.stack([striped(0, 0), striped(1, 0)])
    check = ContentCheck()
    assert check.keeps(untouched, untouched, prompts)
    assert check.keeps(1 - untouched, untouched, prompts)  # other colours, the same lines
    assert not check.keeps(untouched.flip(0), untouched, prompts)
    assert check.keeps(untouched[[0, 0]], untouched, prompts)  # one may be a false alarm
    assert not ContentCheck(lambda images, prompts: (images > 1).flatten(1).any(1).tolist()).keeps(
        untouched, 2 * untouched, prompts
    )
    assert check.keeps(untouched.flip(0), untouched, ["across"] * 2)  # nobody can tell
    assert ContentCheck().guard(untouched, ["across"] * 2, 2) is None


def test_a_token_is_guarded_from_what_the_untouched_model_loses() -> None:
    untouched = torch.stack([striped(0, 0), striped(1, 0)] * 4)
    prompts = ["across", "down"] * 4
    guard = ContentCheck().guard(untouched, prompts, 4)
    assert guard is not None
    assert (guard.untouched, guard.bound) == (0.0, 0.25)  # one of the four that are looked at
    judge = ContentCheck(lambda images, prompts: [p == "across" for p in prompts])
    judged = judge.guard(untouched, prompts, 3)
    assert judged is not None
    assert judged.untouched == pytest.approx(1 / 3)
    told = told_of_untouched(judged, untouched, prompts)
    assert told.untouched == 0.5


def test_by_the_resemblance_a_lora_may_lose_a_fifth_and_by_the_judge_a_tenth() -> None:
    config = AlignConfig(
        prompts=["fox", "owl"], held_out=["cat"], metric=["color:mood=dusk"], validation=20
    )
    metric = config.resolve_metric()
    resembles = PictureResemblance.to(torch.rand(2, 3, 8, 8), ["fox", "owl"])
    assert resembles is not None
    for recognise, share in ((resembles, 0.2), (lambda images, prompts: [True], 0.1)):
        guard = config.resolve_guard(metric, recognise)
        assert guard is not None
        pictures = min(config.validation, config.strength_pictures)
        assert guard.bound == max(share, 1 / pictures)
        assert guard.aim == share
