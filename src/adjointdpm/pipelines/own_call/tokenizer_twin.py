"""Tokenizers that several threads may use: those in Rust keep their padding between two calls."""

import copy
import functools
import types
from functools import cache
from threading import RLock
from typing import Any

_METHODS = ("__call__", "encode", "encode_plus", "batch_encode_plus", "tokenize", "pad")
_one_at_a_time = RLock()


def tokenizer_twin(tokenizer: Any) -> Any:
    """A shallow copy whose methods wait for those of other threads to end."""
    made = copy.copy(tokenizer)
    made.__class__ = _locked(type(tokenizer))
    return made


@cache
def _locked(cls: type) -> type:
    body = {name: _waiting(getattr(cls, name)) for name in _METHODS if hasattr(cls, name)}
    return types.new_class(cls.__name__, (cls,), exec_body=lambda space: space.update(body))


def _waiting(method: Any) -> Any:
    @functools.wraps(method)  # pipelines look at signatures
    def waiting(*args: Any, **kwargs: Any) -> Any:
        with _one_at_a_time:
            return method(*args, **kwargs)

    return waiting
