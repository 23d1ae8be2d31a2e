"""Prompts as a metric's text encoder reads them; those that it cuts off are told of, once each."""

import warnings
from collections.abc import Sequence
from typing import Any, Self

from adjointdpm.errors import CutPromptWarning

_SHOWN = 60  # characters of a prompt, and of what was cut off


class PromptReader:
    """A tokenizer that says what it cuts off; copies of a network share it.

    Args:
        tokenizer: of transformers.
        limit: tokens that the encoder reads.

    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        self._seen: set[str] = set()

    def __deepcopy__(self, memo: object) -> Self:
        """Itself, so that a prompt is told of once however many copies a network has."""
        return self

    def __call__(self, prompts: Sequence[str], metric: str) -> Any:
        """Tokens of the prompts, padded to the longest and cut off at the limit.

        Args:
            prompts: one text a sample.
            metric: who asks, for the warning.

        Warns:
            CutPromptWarning: a prompt is longer; once for each prompt.

        """
        for prompt in prompts:
            if prompt not in self._seen:
                self._seen.add(prompt)
                self._tell(prompt, metric)
        return self.tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=self.limit,
            return_tensors="pt",
        )

    def _tell(self, prompt: str, metric: str) -> None:
        """Warn if a prompt has more tokens than are read."""
        ids = self.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        kept = self.limit - self.tokenizer.num_special_tokens_to_add()
        if len(ids) > kept:
            cut = self.tokenizer.decode(ids[max(0, kept) :])
            warnings.warn(
                f"prompt {_short(prompt)!r} is longer than the {self.limit} tokens that metric "
                f"{metric} reads; it does not see {_short(cut)!r}",
                CutPromptWarning,
                stacklevel=2,
            )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
