"""Prompts as a metric's text encoder reads them; those that it cuts off are told of, once each."""

import warnings
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from adjointdpm.errors import CutPromptWarning

_SHOWN = 60  # characters of a prompt, and of what was cut off
_said: WeakKeyDictionary[Any, set[tuple[str, int]]] = WeakKeyDictionary()


def prompt_tokens(tokenizer: Any, prompts: Sequence[str], limit: int, metric: str) -> Any:
    """Tokens of the prompts, padded to the longest and cut off at `limit`.

    Args:
        tokenizer: of transformers.
        prompts: one text a sample.
        limit: tokens that the encoder reads.
        metric: who asks, for the warning.

    Warns:
        CutPromptWarning: a prompt is longer; once for each prompt and tokenizer.

    """
    said = _said.setdefault(tokenizer, set())
    for prompt in dict.fromkeys(prompts):
        if (prompt, limit) not in said:
            said.add((prompt, limit))
            _tell(tokenizer, prompt, limit, metric)
    return tokenizer(
        list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
    )


def _tell(tokenizer: Any, prompt: str, limit: int, metric: str) -> None:
    """Warn if a prompt has more tokens than are read."""
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    kept = limit - tokenizer.num_special_tokens_to_add()
    if len(ids) > kept:
        cut = tokenizer.decode(ids[max(0, kept) :])
        warnings.warn(
            f"prompt {_short(prompt)!r} is longer than the {limit} tokens that metric {metric} "
            f"reads; it does not see {_short(cut)!r}",
            CutPromptWarning,
            stacklevel=2,
        )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
