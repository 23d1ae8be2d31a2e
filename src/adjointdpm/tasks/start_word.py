"""Existing words that may stand in a new token's place, and the one that it starts from."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from adjointdpm.variables.networks import text_encoders
from adjointdpm.variables.token_embedding import initial_ids

# Words for how things look; those that a tokenizer reads as one token are tried first.
_LOOKS = """
red orange yellow green blue purple pink brown black white gray gold silver dark bright pale
soft sharp smooth rough plain dull vivid warm cold hot wet dry old new big small round flat
wooden metal glass stone paper wool silk clay ice snow water fire smoke cloud sand grass leaf
flower honey cream milk wine straw sky night sunset winter autumn photo painting sketch neon
"""
LOOKS = _LOOKS.split()
_COMMON = 2000  # words are taken from so many that come first in the vocabulary
_END = "</w>"  # marks a token of CLIP's tokenizers that ends a word


class Start(NamedTuple):
    """Where a token starts, and the share of the subjects that its pictures lose there.

    None: nobody can tell.
    """

    word: str
    lost: float | None = None


def checked_start(
    words: Iterable[str], look: Callable[[str], tuple[float | None, float]], limit: float
) -> Start:
    """Of a few words, the one with the best objective among those that keep the subjects.

    If all lose more than they may, it is the one that loses least.

    Args:
        words: some, all of which are looked at.
        look: draws with a word in the token's place, and says which share of the subjects is lost
            and what the objective is.
        limit: what may be lost.

    """
    seen = [(*look(word), word) for word in words]
    lost, _, word = min(seen, key=lambda row: (max(row[0] or 0.0, limit), row[1]))
    return Start(word, lost)


def common_words(pipe: Any, count: int, avoided: Sequence[str] = ()) -> list[str]:
    """Existing words of one token each, the same in every run; more begin with the fewer.

    Words for how things look come before other words of the vocabulary.

    Args:
        pipe: the first of its tokenizers is asked.
        count: how many, if there are as many.
        avoided: texts whose words come last.

    """
    tokenizer = getattr(pipe, text_encoders(pipe)[0].tokenizer)
    known = {word.lower() for text in avoided for word in text.split()}
    looks = [word for word in LOOKS if len(initial_ids(tokenizer, word)) == 1]
    others = [word for word in _vocabulary(tokenizer) if word not in looks]
    for words in (looks, others):
        random.Random(0).shuffle(words)
    return sorted(looks + others, key=lambda word: word in known)[:count]


def _vocabulary(tokenizer: Any) -> list[str]:
    """Whole words, the most common first."""
    vocabulary = tokenizer.get_vocab()
    ends = {token for token in vocabulary if token.endswith(_END)}
    found: list[str] = []
    for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        word = tokenizer.decode([index]).strip()
        plain = len(word) > 2 and word.isalpha() and word.islower() and word not in found
        if not plain or initial_ids(tokenizer, word) != [index]:
            continue
        if token in ends and any(end != token and end.endswith(token) for end in ends):
            continue  # an end of a longer word, which nobody may have written by itself
        found.append(word)
        if len(found) == _COMMON:
            break
    return found
