"""What a text encoder does not read of a prompt is told, in Python and on the command line."""

import warnings

import pytest

import adjointdpm as adj
from adjointdpm.errors import CutPromptWarning
from adjointdpm.pipelines.arguments.cut_prompts import read_part

LONG = "a fox " + "in the deep snow " * 6 + "beside a lion"


@pytest.fixture
def model():
    return adj.load("tiny")


@pytest.mark.parametrize(
    "draw",
    [
        lambda model: model.generate(LONG, steps=1),
        lambda model: model(prompt=LONG, num_inference_steps=1),
        lambda model: model.encode(LONG),
    ],
)
def test_a_prompt_that_is_cut_off_is_told_by_every_way_to_draw_it(model, draw) -> None:
    with pytest.warns(CutPromptWarning, match=r"tokens long.*reads 20; cut off: .*deep snow"):
        draw(model)


def test_words_without_tokens_are_told_once(model) -> None:
    text = "a red 狐 and 🦊 12"
    with pytest.warns(CutPromptWarning, match="no tokens for: '狐', '🦊', '12'"):
        model.encode(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for known in (text, "a Red FOX, a small wolf", ""):
            model.encode(known)


def test_what_is_read_of_a_prompt(model) -> None:
    assert read_part(model.pipe, "a fox") == "a fox"
    read = read_part(model.pipe, LONG)
    assert read.startswith("a fox in the deep snow")
    assert "lion" not in read
    assert read_part(object(), LONG) == LONG
