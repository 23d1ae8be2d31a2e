"""Existing words that stand in a token's place."""

from adjointdpm.tasks.start_word import Start, checked_start, common_words
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


def test_the_start_is_the_best_of_a_few_words_that_keep_the_subjects() -> None:
    seen = {"a": (0.5, 1.0), "b": (0.25, 3.0), "c": (0.75, 2.0), "d": (0.5, 0.0), "e": (0.0, 9.0)}
    seen |= {"f": (0.1, 8.0), "g": (None, 5.0), "h": (None, 4.0)}
    look = seen.__getitem__
    assert checked_start("abcd", look, 0.1) == Start("b", 0.25)  # of those that lose, the least
    assert checked_start(["a", "e", "f"], look, 0.1) == Start("f", 0.1)
    assert checked_start(["g", "h"], look, 0.1) == Start("h", None)  # nobody can tell
