"""Says when a prompt is longer than a tokenizer reads, and what was cut off; each prompt once."""

import copy
import warnings
import weakref
from functools import cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from adjointdpm.errors import CutPromptWarning

_SHOWN = 60  # characters of a prompt, and of what was cut off
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


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
