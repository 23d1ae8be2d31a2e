"""Which concept a prompt names, and asking the judge for that one."""

import pytest
import torch

from adjointdpm.metrics.subject_recognition import judge_prompts, named_concept, recogniser_for
from adjointdpm.variables import Example


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

    recognise = judge_prompts(Fixed())  # pyright: ignore[reportArgumentType]
    examples = [
        Example("a noto emoji of a fox", 0),
        Example("b or a", 0),
        Example("d", 0),
        Example("nothing", 0),
    ]
    assert recognise(torch.zeros(4, 3, 4, 4), examples) == [True, False, True, False]


def test_there_is_a_judge_only_if_it_knows_every_prompt() -> None:
    assert recogniser_for(["a fox", "a red apple"]) is not None
    assert recogniser_for(["a fox", "a spaceship"]) is None
