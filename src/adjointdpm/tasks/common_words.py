"""Existing words that may stand in a new token's place."""

import random
from collections.abc import Sequence
from typing import Any

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
