"""Which concept a prompt names, and asking the judge for that one."""

import pytest
import torch

from adjointdpm.metrics.lost_subject import LostSubject
from adjointdpm.metrics.subject_recognition import (
    SubjectJudge,
    named_concept,
    named_concepts,
    recogniser_for,
)


@pytest.mark.parametrize(
    ("prompt", "concept"),
    [
        ("a noto emoji of a fox", "fox"),
        ("Fox, twemoji style", "fox"),
        ("a hot dog on a blue background", "hot dog"),
        ("a foxglove", None),
        ("a dog beside a fox", "fox"),
        ("", None),
    ],
)
def test_the_longest_whole_word_and_of_equals_the_last(prompt: str, concept: str | None) -> None:
    assert named_concept(prompt, ["dog", "hot dog", "fox"]) == concept


def test_the_judge_is_asked_for_the_prompts_own_concept() -> None:
    class Fixed:
        concepts = (*"abcdefg", "fox")

        def concept_logits(self, images: torch.Tensor) -> torch.Tensor:
            return torch.arange(8.0).expand(len(images), 8)  # "fox" first, then g f e d

    recognise = SubjectJudge(Fixed())  # pyright: ignore[reportArgumentType]
    prompts = ["a noto emoji of a fox", "b or a", "d", "nothing"]
    pictures = torch.zeros(4, 3, 4, 4)
    assert recognise(pictures, prompts) == [True, False, True, False]
    assert recognise.clearly()(pictures, prompts) == [True, False, False, False]
    assert LostSubject(recognise)(pictures, prompts).tolist() == [0, 1, 0, 1]
    assert LostSubject(recognise, recognise.clearly())(pictures, prompts).tolist() == [0, 1, 0.5, 1]


def test_there_is_a_judge_only_if_it_knows_every_prompt() -> None:
    assert recogniser_for(["a fox", "a red apple"]) is not None
    assert recogniser_for(["a fox", "a spaceship"]) is None


def test_there_is_no_judge_of_another_models_pictures_or_of_what_was_optimised_for_it() -> None:
    assert recogniser_for(["a fox"], "tiny", optimised=False) is not None
    assert recogniser_for(["a fox"], "some/model") is None
    assert recogniser_for(["a fox"], "tiny", optimised=True) is None


def test_each_word_counts_for_the_longest_name_that_it_is_part_of() -> None:
    concepts = ["dog", "hot dog", "fox", "apple", "red apple"]
    assert named_concepts("a hot dog", concepts) == ["hot dog"]
    assert named_concepts("a hot dog and a dog, and a dog", concepts) == ["hot dog", "dog"]
    assert named_concepts("fox, dog", concepts) == ["dog", "fox"]
    assert named_concepts("nothing", concepts) == []
