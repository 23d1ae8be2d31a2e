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


def test_of_words_that_all_lose_subjects_the_one_that_loses_least_is_taken() -> None:
    shares = {"a": 0.5, "b": 0.25, "c": 0.75, "d": 0.5, "e": 0.0}
    asked: list[str] = []

    def lost(word: str) -> float:
        asked.append(word)
        return shares[word]

    assert checked_start(shares, lost, 0.1) == Start("b", 0.25)
    assert asked == ["a", "b", "c"]  # finer pictures of each are drawn: no more than a few
    assert checked_start(["e", "a"], lost, 0.1) == Start("e", 0.0)
