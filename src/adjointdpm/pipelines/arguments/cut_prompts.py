"""Says what a tokenizer does not read of a prompt: what is cut off, and words unknown to it."""

import copy
import warnings
import weakref
from collections.abc import Iterable
from functools import cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from adjointdpm.errors import CutPromptWarning

_SHOWN = 60  # characters of a prompt, and of what was cut off
_UNKNOWN = -1  # in place of a length, for what is said of unknown words
_said: weakref.WeakKeyDictionary[Any, set[tuple[str, int]]] = weakref.WeakKeyDictionary()


def is_tokenizer(part: Any) -> bool:
    """Whether a pipeline's part is a tokenizer."""
    return isinstance(part, PreTrainedTokenizerBase)


def watched(name: str, tokenizer: Any) -> Any:
    """A copy of a tokenizer that warns when it cuts a text off.

    Args:
        name: of the pipeline's part.
        tokenizer: shares all but its class with the copy.

    """
    if not is_tokenizer(tokenizer):
        return tokenizer
    made = copy.copy(tokenizer)
    made.__class__ = _watching(type(tokenizer))
    vars(made)["_watched"] = (name, _said.setdefault(tokenizer, set()))
    return made


def with_watched_tokenizers(pipe: Any) -> Any:
    """A shallow copy of a pipeline whose tokenizers are `watched`."""
    made = copy.copy(pipe)
    for name, part in list(vars(made).items()):
        vars(made)[name] = watched(name, part)
    return made


@cache
def _watching(cls: type) -> type:
    def call(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        found = cls.__call__(self, text, *args, **kwargs)
        if kwargs.get("truncation") and kwargs.get("max_length") is not None:
            texts = [text] if isinstance(text, str) else text
            for one in texts if isinstance(texts, list | tuple) else []:
                if isinstance(one, str):
                    _tell(self, cls, one, kwargs)
                    _tell_of_unknown(self, cls, one)
        return found

    return type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})


def _tell(tokenizer: Any, cls: Any, text: str, kwargs: dict[str, Any]) -> None:
    """Warn if a text has more tokens than are read, unless that has been said."""
    (name, said), limit = vars(tokenizer)["_watched"], kwargs["max_length"]
    if (text, limit) in said or len(text) < limit // 2:
        return
    added = kwargs.get("add_special_tokens", True)
    ids = cls.__call__(tokenizer, text, add_special_tokens=False, verbose=False).input_ids
    special = tokenizer.num_special_tokens_to_add() if added else 0
    if len(ids) + special <= limit:
        return
    said.add((text, limit))
    cut = tokenizer.decode(ids[max(0, limit - special) :])
    warnings.warn(
        f"prompt {_short(text)!r} is {len(ids) + special} tokens long, and the pipeline's {name} "
        f"reads {limit}; cut off: {_short(cut)!r}",
        CutPromptWarning,
        stacklevel=2,
    )


def _tell_of_unknown(tokenizer: Any, cls: Any, text: str) -> None:
    """Warn if a text holds what the tokenizer has no tokens for, unless that has been said."""
    (name, said), unknown = vars(tokenizer)["_watched"], tokenizer.unk_token_id
    if unknown is None or (text, _UNKNOWN) in said:
        return
    said.add((text, _UNKNOWN))

    def is_unknown(part: str) -> bool:
        ids = cls.__call__(tokenizer, part, add_special_tokens=False, verbose=False).input_ids
        return unknown in ids

    plain = text.replace(str(tokenizer.unk_token), " ")
    if not is_unknown(plain):
        return
    words = [word for word in dict.fromkeys(plain.split()) if is_unknown(word)]
    warnings.warn(
        f"prompt {_short(text)!r} holds what the pipeline's {name} has no tokens for: "
        f"{', '.join(map(repr, words))}; the model does not see it",
        CutPromptWarning,
        stacklevel=2,
    )


def read_part(pipe: Any, prompt: str) -> str:
    """The part of a prompt that at least one of a pipeline's text encoders reads.

    Args:
        pipe: a diffusers pipeline; without tokenizers it is taken to read all.
        prompt: what it is asked for.

    """
    read = [_read_by(part, prompt) for part in _parts(pipe) if is_tokenizer(part)]
    return max(read, key=len) if read and prompt not in read else prompt


def _read_by(tokenizer: Any, prompt: str) -> str:
    ids = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    return prompt if len(ids) <= room else tokenizer.decode(ids[:room])


def _parts(pipe: Any) -> Iterable[Any]:
    return getattr(pipe, "components", {}).values()


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
