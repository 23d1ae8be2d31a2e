"""Says what a pipeline does not read of a prompt: what is cut off, and words unknown to it.

Most pipelines let the tokenizer cut. Some cut what the text encoder returns (Qwen-Image), which
shows only in that.
"""

import copy
import functools
import inspect
import warnings
import weakref
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedTokenizerBase

from adjointdpm.errors import CutPromptWarning

_ENCODER = "encode_prompt"
_LONGEST = "max_sequence_length"  # of pipelines with long prompts, in tokens
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


def watch_encoding(twin: Any) -> None:
    """Let a copy of a pipeline warn when its `encode_prompt` cuts off what a tokenizer has read."""
    encode = getattr(twin, _ENCODER, None)
    if encode is None or not any(is_tokenizer(part) for part in vars(twin).values()):
        return

    @functools.wraps(encode)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        found = encode(*args, **kwargs)
        _tell_of_lost_rows(twin, encode, args, kwargs, found)
        return found

    vars(twin)[_ENCODER] = encode_prompt


def _tell_of_lost_rows(
    twin: Any, encode: Any, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any
) -> None:
    """Warn of a prompt with more tokens than came back, if its last ones change nothing.

    Only such a prompt is encoded again, with another end.
    """
    try:
        bound = inspect.signature(encode).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return
    prompt, rows = bound.arguments.get("prompt"), _rows(found)
    texts = [prompt] if isinstance(prompt, str) else prompt
    if rows is None or not isinstance(texts, list | tuple):
        return
    for text in dict.fromkeys(one for one in texts if isinstance(one, str)):
        tokenizer, ids = min(
            ((part, _plain_ids(part, text)) for part in vars(twin).values() if is_tokenizer(part)),
            key=lambda read: len(read[1]),
        )
        name, said = vars(tokenizer).get("_watched", ("tokenizer", set()))
        if len(ids) <= rows or (text, rows) in said:
            continue
        said.add((text, rows))
        kept = tokenizer.decode(ids[:rows])
        other = kept + " " + tokenizer.decode(list(reversed(ids[rows:])))
        given = [other if one == text else one for one in texts]
        bound.arguments["prompt"] = given[0] if isinstance(prompt, str) else given
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            again = encode(*bound.args, **bound.kwargs)
        if _are_close(found, again):
            _warn_of_cut(text, len(ids), name, rows, tokenizer.decode(ids[rows:]))


def _rows(encoded: Any) -> int | None:
    """The most tokens that something encoded stands for; None of what has none."""
    return max(
        (t.shape[-2] for t in tree_leaves(encoded) if isinstance(t, Tensor) and t.ndim >= 3),
        default=None,
    )


def _are_close(one: Any, other: Any) -> bool:
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    return all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4)
        for a, b in pairs
        if isinstance(a, Tensor) and isinstance(b, Tensor)
    )


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
    _warn_of_cut(text, len(ids) + special, name, limit, cut)


def _warn_of_cut(text: str, length: int, name: str, limit: int, cut: str) -> None:
    warnings.warn(
        f"prompt {_short(text)!r} is {length} tokens long, and the pipeline's {name} "
        f"reads {limit}; cut off: {_short(cut)!r}",
        CutPromptWarning,
        stacklevel=3,
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


def read_part(pipe: Any, prompt: str, longest: int | None = None) -> str:
    """The part of a prompt that at least one of a pipeline's text encoders reads.

    Args:
        pipe: a diffusers pipeline; without tokenizers it is taken to read all.
        prompt: what it is asked for.
        longest: the pipeline's `max_sequence_length`, if it is not the default.

    """
    parameters = inspect.signature(inspect.unwrap(type(pipe).__call__)).parameters
    if longest is None and _LONGEST in parameters:
        longest = parameters[_LONGEST].default
    most = longest if isinstance(longest, int) else None
    read = [_read_by(part, prompt, most) for part in _parts(pipe) if is_tokenizer(part)]
    return max(read, key=len) if read and prompt not in read else prompt


def _read_by(tokenizer: Any, prompt: str, most: int | None) -> str:
    ids = _plain_ids(tokenizer, prompt)
    limit = tokenizer.model_max_length if most is None else min(most, tokenizer.model_max_length)
    room = max(0, limit - tokenizer.num_special_tokens_to_add())
    return prompt if len(ids) <= room else tokenizer.decode(ids[:room])


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def _parts(pipe: Any) -> Iterable[Any]:
    return getattr(pipe, "components", {}).values()


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
