"""The sentence in which a token is learned, chosen by drawing existing words in its place."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from adjointdpm import metrics
from adjointdpm.errors import CheckpointError, NoGainWarning, PromptError
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.report import write_report
from adjointdpm.tasks import template_probe
from adjointdpm.tasks.common_words import common_words
from adjointdpm.tasks.embed import EmbedConfig, embed
from adjointdpm.tasks.sentences import FILE, Choice, Sentence, chosen_template
from adjointdpm.tasks.template_probe import TemplateProbe
from adjointdpm.tasks.word_pictures import WordPictures
from adjointdpm.variables import Example
from helpers.contents import Loses

TRAINING = [Example(f"a noto emoji of a {word}", i) for i, word in enumerate(["cat", "owl"])]
BRIGHT = Loses(lambda images, prompts: images.mean().item())  # bright pictures are lost
BACKGROUND, STYLE = "{prompt} on a {token} background", "{prompt} in {token} style"


def warm(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.mean((2, 3)).unbind(1)
    return blue - red + green / 2


def probe(model, **changes: Any) -> TemplateProbe:
    drawn: dict[str, Any] = {
        "render": Renderer(model, 20, 5.0),
        "metric": metrics.resolve(warm),
        "preservation": 0.2,
        "initial": None,
        "training": TRAINING,
        "content": None,
    }
    drawn |= {name: changes.pop(name) for name in drawn.keys() & changes.keys()}
    return TemplateProbe(WordPictures(**drawn), "<x>", **changes)


@pytest.mark.slow
def test_the_bundled_model_is_asked_where_it_learned_to_read_adjectives(tiny) -> None:
    """Its captions end in "on a gray background"; a word at their end it was never taught."""
    choice = probe(tiny).choose()
    assert choice.template == BACKGROUND
    assert choice.acts
    changes = {sentence.template: sentence.change for sentence in choice.sentences}
    assert changes[BACKGROUND] > 3 * changes["{prompt} {token}"]
    assert changes[BACKGROUND] > 3 * changes[STYLE]
    assert choice.network_calls <= 400
    best = choice.sentences[0].objectives
    assert (
        choice.initial in best or min(best.values()) > -1
    )  # of more words than those in the table


@pytest.mark.slow
def test_an_own_sentence_is_taken_and_said_not_to_act(tiny) -> None:
    choice = probe(tiny, initial="gray").choose(STYLE)
    assert (choice.template, choice.initial, choice.own) == (STYLE, "gray", True)
    assert not choice.acts
    assert max(choice.sentences, key=lambda s: s.change).template != STYLE  # for the advice
    acting = probe(tiny, initial="gray").choose(BACKGROUND)
    assert acting.acts
    assert [sentence.template for sentence in acting.sentences] == [BACKGROUND]  # no others tried


def test_a_model_that_does_not_read_prompts_is_an_error_that_says_what_to_do(tiny) -> None:
    class Deaf(Renderer):
        def draw(self, examples, variable=None):
            noise = [torch.Generator().manual_seed(example.seed) for example in examples]
            yield examples, torch.stack([torch.rand(3, 16, 16, generator=g) for g in noise])

    with pytest.raises(PromptError, match="guidance_scale"):
        probe(tiny, render=Deaf(tiny, 2)).choose()
    own = probe(tiny, render=Deaf(tiny, 2)).choose(STYLE)  # as the user wants it, and not acting
    assert not own.acts


def test_sentences_that_cut_the_token_off_are_left_out(tiny, monkeypatch) -> None:
    long = [Example("a noto emoji of a cat " * 15, 0), Example("a noto emoji of an owl", 1)]

    def drawn(self, template, words, plain):
        return Sentence(template, 1.0, dict.fromkeys(words, 0.0))

    monkeypatch.setattr(WordPictures, "seen", drawn)
    choice = probe(tiny, training=long).choose()
    refused = {sentence.template for sentence in choice.sentences if sentence.refused}
    assert "{prompt} {token}" in refused
    assert choice.template in ("{token} {prompt}", "{token}, {prompt}")
    with pytest.raises(PromptError, match="cut off"):
        probe(tiny, training=long).choose(STYLE)


def test_sentences_that_act_come_before_those_that_promise_more(tiny, monkeypatch) -> None:
    def drawn(self, template, words, plain):
        acts = template == BACKGROUND
        values = {word: (0.5 if acts else 0.4) + 0.01 * i for i, word in enumerate(words)}
        return Sentence(template, 1.0 if acts else 0.2, values)

    monkeypatch.setattr(WordPictures, "seen", drawn)
    choice = probe(tiny, initial="gray").choose()
    assert (choice.template, choice.initial) == (BACKGROUND, "gray")


def test_the_token_starts_at_the_best_of_more_words_than_sentences_are_compared_with(
    tiny, monkeypatch
) -> None:
    words = common_words(tiny.pipe, 48, [e.prompt for e in TRAINING])
    values = {word: 1.0 for word in words} | {words[11]: 0.1, words[2]: 0.5}
    asked: list[int] = []

    def drawn(self, template, given, plain):
        asked.append(len(given))
        return Sentence(template, 1.0, {word: values[word] for word in given})

    monkeypatch.setattr(WordPictures, "seen", drawn)
    assert probe(tiny).choose(BACKGROUND).initial == words[11]
    assert asked == [4, 48]


def test_words_that_lose_a_subject_in_rough_pictures_are_compared_too(tiny, monkeypatch) -> None:
    words = [f"w{i}" for i in range(6)]
    seen = Sentence(STYLE, 1.0, {"w3": 0.3, "w5": 0.5}, losing={"w0": 0.0, "w4": 0.4})
    monkeypatch.setattr(WordPictures, "seen", lambda *_: seen)
    found = probe(tiny)._search._by_objective(STYLE, torch.zeros(2, 3, 4, 4), words)
    assert found == ["w3", "w0", "w5", "w4"]
    monkeypatch.setattr(WordPictures, "seen", lambda *_: replace(seen, losing={}, loses=True))
    assert probe(tiny)._search._by_objective(STYLE, torch.zeros(2, 3, 4, 4), words) == ["w3", "w5"]


def test_a_resumed_run_reads_its_sentence_and_does_not_probe(tmp_path) -> None:
    folder = RunFolder.open(tmp_path, {})
    sentences = [Sentence(BACKGROUND, 1.2, {"gray": 0.5})]
    made = Choice(BACKGROUND, "gray", False, sentences, 0.125, 3.0, 40)
    assert chosen_template(lambda: made, folder, False) == made

    def never() -> Choice:
        raise AssertionError("probed again")

    assert chosen_template(never, folder, True) == made
    (tmp_path / FILE).write_text('{"template": 1}')
    with pytest.raises(CheckpointError, match=FILE):
        chosen_template(never, folder, True)


@pytest.mark.slow
def test_embed_uses_what_was_chosen_and_says_so_everywhere(tiny, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(template_probe, "TEMPLATES", (STYLE, BACKGROUND))
    told: list[str] = []
    config = EmbedConfig(
        metric=["color:mood=sepia"],
        token="<x>",
        prompts=[e.prompt for e in TRAINING] + ["a noto emoji of a bear", "a noto emoji of a frog"],
        steps=2,
        guidance_scale=5.0,
        iterations=1,
        batch=1,
        validation=1,
        tracker=[],
    )
    folder = RunFolder.open(tmp_path, {}, artefacts=config.artefacts)
    result = embed(tiny, config, folder, on_choice=told.append)
    assert result["config"]["template"] == result["template"]["template"] == BACKGROUND
    assert result["config"]["initial"] == result["template"]["initial"]
    assert json.loads((tmp_path / FILE).read_text()) == result["template"]
    assert result["network_calls_by_purpose"]["probing sentences"] > 0
    assert len(told) == 1
    assert BACKGROUND in told[0]
    readme = (tmp_path / "README.md").read_text()
    assert BACKGROUND in readme
    assert "load_textual_inversion" in readme
    assert STYLE in write_report(folder).read_text()  # what else was tried


@pytest.mark.slow
def test_embed_warns_of_an_own_sentence_in_which_words_do_nothing(tiny, tmp_path) -> None:
    prompts = [example.prompt for example in TRAINING]
    config = EmbedConfig(
        metric=["color:mood=sepia"],
        token="<x>",
        initial="gray",
        template=STYLE,
        prompts=prompts,
        steps=2,
        guidance_scale=5.0,
        iterations=1,
        batch=1,
        validation=1,
        tracker=[],
    )
    with pytest.warns(NoGainWarning, match="use that as --template"):
        embed(tiny, config, RunFolder.open(tmp_path, {}))


def test_of_the_sentences_that_act_the_one_is_taken_in_which_most_is_learned(
    tiny, monkeypatch
) -> None:
    first, second, third = "{token} {prompt}", BACKGROUND, "{token}, {prompt}"
    asked: list[str] = []

    def drawn(self, template, words, plain):
        promises = {first: 0.1, second: 0.2, third: 0.3}
        values = dict.fromkeys(words, promises.get(template, 0.0))
        return Sentence(template, 1.0 if template in promises else 0.2, values)

    def trial(template: str, initial: str) -> float | None:
        asked.append(template)
        return {first: 0.3, second: None, third: -0.5}[template]

    monkeypatch.setattr(WordPictures, "seen", drawn)
    choice = probe(tiny, initial="gray", trial=trial).choose()
    assert asked == [first, second, third]  # in the order of their promise, and no others
    assert choice.template == third
    order = [sentence.template for sentence in choice.sentences]
    assert order[:3] == [third, first, second]  # where nothing is learned with the subject kept
    probe(tiny, initial="gray", trial=trial).choose(first)
    assert len(asked) == 3  # the user's own is taken as it is


def test_words_that_lose_the_subject_are_not_where_a_token_starts(tiny, monkeypatch) -> None:
    def lost(images: torch.Tensor, prompts) -> float:
        return float(images.mean() > 0.9)

    pictures = torch.stack([torch.full((2, 3, 8, 8), value) for value in (0.2, 0.95, 0.4)])
    plain = torch.full((2, 3, 8, 8), 0.5)
    values = {"gray": 0.3, "white": 0.0, "blue": 0.2}
    asked = probe(tiny, content=Loses(lost))
    assert asked.pictures._keeping(values, pictures, plain) == {"gray": 0.3, "blue": 0.2}
    assert probe(tiny).pictures._keeping(values, pictures, plain) == values
    lost_already = torch.ones_like(plain)
    assert asked.pictures._keeping(values, pictures, lost_already) == values


def test_the_token_starts_at_a_word_that_keeps_the_subjects_of_finer_pictures(
    tiny, monkeypatch
) -> None:
    """Rough pictures do not tell: finer ones of a few words are drawn, judged and compared."""
    words = common_words(tiny.pipe, 64, [e.prompt for e in TRAINING])
    order = {word: i / 100 for i, word in enumerate(words)}
    looked: list[str] = []

    class Shown(Renderer):
        def look(self, examples, variable=None):
            looked.append(examples[0].prompt)
            bad = any(words[i] in examples[0].prompt.split() for i in (0, 1))
            return torch.full((len(examples), 3, 4, 4), float(bad))

    def drawn(self, template, given, plain):
        return Sentence(template, 1.0, {word: order[word] for word in given})

    monkeypatch.setattr(WordPictures, "seen", drawn)
    asked = probe(
        tiny,
        render=Shown(tiny, 20, 5.0),
        content=BRIGHT,
        validation=TRAINING,
    )
    choice = asked.choose(BACKGROUND)
    assert (choice.initial, choice.lost) == (words[2], 0.0)
    written = [BACKGROUND.format(prompt=TRAINING[0].prompt, token=w) for w in words[:6]]
    assert looked == [TRAINING[0].prompt, *written]
    pictures = replace(asked.pictures, initial=words[0])
    named = replace(asked, pictures=pictures).choose(BACKGROUND)
    assert (named.initial, named.lost) == (words[0], 1.0)  # what the user names is taken, and said


def test_a_sentence_whose_start_loses_subjects_comes_after_the_others(tiny, monkeypatch) -> None:
    first, second = "{token} {prompt}", BACKGROUND

    def drawn(self, template, words, plain):
        value = 0.0 if template == first else 0.5
        return Sentence(template, float(template in (first, second)), dict.fromkeys(words, value))

    class Shown(Renderer):
        def look(self, examples, variable=None):
            kept = "background" in str(examples) or examples[0].prompt == TRAINING[0].prompt
            return torch.full((len(examples), 3, 4, 4), float(not kept))

    monkeypatch.setattr(WordPictures, "seen", drawn)
    choice = probe(
        tiny,
        render=Shown(tiny, 20, 5.0),
        trial=lambda template, initial: 0.0 if template == first else 0.5,
        content=BRIGHT,
        validation=TRAINING,
    ).choose()
    assert choice.template == second
    assert choice.lost == 0.0
