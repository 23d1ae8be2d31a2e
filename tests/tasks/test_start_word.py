"""The word that a token starts from."""

from adjointdpm.tasks.start_word import Start, checked_start


def test_the_start_is_the_best_of_a_few_words_that_keep_the_subjects() -> None:
    seen = {"a": (0.5, 1.0), "b": (0.25, 3.0), "c": (0.75, 2.0), "d": (0.5, 0.0), "e": (0.0, 9.0)}
    seen |= {"f": (0.1, 8.0), "g": (None, 5.0), "h": (None, 4.0)}
    look = seen.__getitem__
    assert checked_start("abcd", look, 0.1) == Start(
        "b", 0.25, 0.1
    )  # of those that lose, the least
    assert checked_start(["a", "e", "f"], look, 0.1) == Start("f", 0.1, 0.1)
    assert checked_start(["g", "h"], look, 0.1) == Start("h")  # nobody can tell
