"""Existing words that stand in a token's place."""

from dataclasses import replace

from adjointdpm.optimization.renderer import Renderer
from adjointdpm.tasks.common_words import common_words
from adjointdpm.tasks.word_pictures import WordPictures
from adjointdpm.variables import Example
from adjointdpm.variables.token_embedding import initial_ids


def test_words_are_single_tokens_and_those_of_the_prompts_come_last(tiny) -> None:
    tokenizer = tiny.pipe.tokenizer
    words = common_words(tiny.pipe, 20, ["a noto emoji of a cat"])
    assert len(set(words)) == 20
    assert all(len(initial_ids(tokenizer, word)) == 1 for word in words)
    assert "cat" not in words
    assert common_words(tiny.pipe, 5, ["a noto emoji of a cat"]) == words[:5]


def test_no_subject_of_any_prompt_is_among_the_first_words(tiny) -> None:
    """Not of those that are drawn alone: a token is used with all."""
    subjects = ["cat", "owl", "tiger", "whale", "rabbit", "zebra", "dog", "fox", "pizza", "bee"]
    training = [Example(f"a {word}", 1) for word in subjects]
    pictures = WordPictures(Renderer(tiny, 2, 5.0), lambda images: images, 0.0, None, training)
    count = len(pictures.words(10_000)) - 30
    assert len(pictures.examples) < len(subjects)
    without = replace(pictures, training=training[:1]).words(count)
    assert set(subjects[1:-1]) & set(without)
    assert not set(subjects) & set(pictures.words(count))
    there = replace(pictures, training=training[:1], others=[f"a {word}" for word in subjects])
    assert there.words(count) == pictures.words(count)


def test_words_for_how_things_look_come_first_and_ends_of_longer_words_never(tiny) -> None:
    words = common_words(tiny.pipe, 10_000)
    assert {"red", "gray", "white", "blue"} <= set(words[:25])
    assert words.index("gray") < words.index("tiger")
    assert not {"iger", "ster", "ther", "gehog"} & set(words)
