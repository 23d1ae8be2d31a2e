"""Existing words that stand in a token's place."""

from adjointdpm.tasks.common_words import common_words
from adjointdpm.variables.token_embedding import initial_ids


def test_words_are_single_tokens_and_those_of_the_prompts_come_last(tiny) -> None:
    tokenizer = tiny.pipe.tokenizer
    words = common_words(tiny.pipe, 20, ["a noto emoji of a cat"])
    assert len(set(words)) == 20
    assert all(len(initial_ids(tokenizer, word)) == 1 for word in words)
    assert "cat" not in words
    assert common_words(tiny.pipe, 5, ["a noto emoji of a cat"]) == words[:5]


def test_words_for_how_things_look_come_first_and_ends_of_longer_words_never(tiny) -> None:
    words = common_words(tiny.pipe, 10_000)
    assert {"red", "gray", "white", "blue"} <= set(words[:25])
    assert words.index("gray") < words.index("tiger")
    assert not {"iger", "ster", "ther", "gehog"} & set(words)
