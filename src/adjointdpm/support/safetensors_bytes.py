"""Tensors as the bytes of a safetensors file: equal content gives equal bytes."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save as unordered_save
from torch import Tensor

LENGTH = 8  # bytes at the start of a file that hold the length of its header
METADATA = "__metadata__"


def save(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """What `safetensors.torch.save` returns, with the metadata in the order of their names.

    safetensors itself writes several metadata in an order that changes from process to process, so
    that equal runs would leave different files.
    """
    header, data = parts(tensors)
    return join(header, metadata or {}) + data


def parts(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], memoryview]:
    """Names, types, shapes and places of tensors as a header has them; and their bytes."""
    plain = memoryview(unordered_save(dict(tensors)))
    length = int.from_bytes(plain[:LENGTH], "little")
    return json.loads(bytes(plain[LENGTH : LENGTH + length])), plain[LENGTH + length :]


def join(header: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a file, up to the bytes of its tensors."""
    whole = ({METADATA: dict(sorted(metadata.items()))} if metadata else {}) | dict(header)
    text = json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % LENGTH)  # the tensors begin at a multiple of eight bytes
    return len(text).to_bytes(LENGTH, "little") + text
