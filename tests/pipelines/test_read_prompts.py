"""What a text encoder does not read of a prompt is told, in Python and on the command line."""

import warnings

import pytest

import adjointdpm as adj
from adjointdpm.errors import CutPromptWarning
from adjointdpm.pipelines.arguments.cut_prompts import read_part
from benchmarks.pipelines.cases import build

WORDS = "red fox owl a " * 5
SMALL = {"steps": 1, "height": 16, "width": 16}
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


@pytest.mark.parametrize(
    ("draw", "reads"),
    [
        (lambda model: model.encode(WORDS, max_sequence_length=8), 8),
        (lambda model: model.generate(WORDS, max_sequence_length=8, **SMALL), 8),
        (lambda model: model.generate(["a fox", WORDS], max_sequence_length=5, **SMALL), 5),
    ],
)
def test_what_a_pipeline_cuts_off_behind_the_tokenizer_is_told_once(draw, reads: int) -> None:
    model = adj.from_pipeline(build("QwenImagePipeline"))
    said = rf"the pipeline's tokenizer reads {reads}; cut off: .*"
    with pytest.warns(CutPromptWarning, match=said):
        draw(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draw(model)
        model.encode("red fox", max_sequence_length=8)
        model.encode(WORDS, max_sequence_length=100)
    assert not [w for w in caught if "cut off" in str(w.message)]


def test_prompts_that_are_read_to_their_end_are_encoded_once(monkeypatch) -> None:
    pipe = build("QwenImagePipeline")
    model, calls = adj.from_pipeline(pipe), []
    pipe.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    model.encode(WORDS)
    assert len(calls) == 1


def test_an_audit_knows_the_longest_prompt_of_the_pipeline() -> None:
    pipe = build("QwenImagePipeline")
    pipe.tokenizer.model_max_length = 1000
    assert read_part(pipe, WORDS) == WORDS
    assert "owl" not in read_part(pipe, WORDS.replace("owl", "fox") + " owl", 8)


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
