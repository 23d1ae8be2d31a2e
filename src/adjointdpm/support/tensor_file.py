"""Files of tensors and facts: safetensors, with the facts as JSON in the metadata.

Both have checksums, so that a file that was changed or damaged is never taken for what was saved.
Nothing of a file is loaded before its size and its facts are known.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import psutil
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adjointdpm.errors import CheckpointError
from adjointdpm.support.files import open_regular, write_bytes
from adjointdpm.support.safetensors_bytes import LENGTH, METADATA, join, parts

_FACTS, _FACTS_SUM, _TENSORS_SUM = "facts", "facts_sha256", "tensors_sha256"
_LARGEST_HEADER = 100_000_000  # bytes: safetensors' own bound
_BLOCK = 2**22  # bytes that are read at once for a checksum

Shapes = dict[str, tuple[int, ...]]


class Contents(NamedTuple):
    """What a file says of itself, before its tensors are loaded.

    Args:
        facts: what was saved with the tensors.
        shapes: of the tensors, by name.
        size: bytes of the whole file.
        checked: whether the file has checksums.

    """

    facts: dict[str, Any]
    shapes: Shapes
    size: int
    checked: bool


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write tensors and facts that JSON can hold; equal content gives equal files.

    Raises:
        OutputError: the write failed; what was there before is untouched.

    """
    header, data = parts(_apart(tensors))
    text = json.dumps(dict(facts))
    metadata = {
        _FACTS: text,
        _FACTS_SUM: hashlib.sha256(text.encode()).hexdigest(),
        _TENSORS_SUM: _sum_of(header, [data]),
    }
    return write_bytes(path, join(header, metadata), data)


def read(
    path: Path | str, file_format: str | None = None, *, checksum: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, on the CPU, and the facts of a file that `write` wrote.

    Args:
        path: the file.
        file_format: what its fact "format" must be; None takes any file.
        checksum: refuse a file without checksums. Those of a file that has them must be right.

    Raises:
        CheckpointError: the file is missing, damaged, of another format, or larger than the memory
            that is free.

    """
    contents = look(path, file_format, checksum=checksum)
    if contents.size > (free := psutil.virtual_memory().available):
        raise CheckpointError(
            f"{path} has {contents.size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free"
        )
    try:
        if contents.checked:
            _check_tensors(path)
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error
    return tensors, contents.facts


def look(
    path: Path | str,
    file_format: str | None = None,
    *,
    checksum: bool = False,
    check: Callable[[dict[str, Any]], object] = lambda facts: None,
) -> Contents:
    """Read what a file says of itself; the tensors are left on disk, and their checksum unread.

    Args:
        path, file_format, checksum: as for `read`.
        check: raises if the facts are not what they must be. It runs before their checksum is
            looked at, so that the message names the fact.

    Raises:
        CheckpointError: as `read`.

    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        with open_regular(Path(path)) as file:
            size = file.seek(0, 2)
            header = _header(file, size)
        metadata = header.pop(METADATA, {})
        text = metadata.get(_FACTS, "null")
        facts = json.loads(text)
        shapes: Shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({_reason(error)})") from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} is no file of this library (its facts are no mapping)")
    checked = _FACTS_SUM in metadata or _TENSORS_SUM in metadata
    if checksum and not checked:
        raise CheckpointError(f"{path} is damaged (it has no checksum)")
    if file_format is not None and facts.get("format") != file_format:
        raise CheckpointError(f"{path} has the format {facts.get('format')!r}, not {file_format!r}")
    check(facts)
    if checked and metadata.get(_FACTS_SUM) != hashlib.sha256(text.encode()).hexdigest():
        raise CheckpointError(f"{path} is damaged (the checksum of its facts is another)")
    return Contents(facts, shapes, size, checked)


def read_facts(path: Path | str) -> dict[str, Any]:
    """Read the facts alone of a file that has checksums; the tensors are left on disk.

    Raises:
        CheckpointError: as `read`.

    """
    return look(path, checksum=True).facts


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, none of which shares memory with another."""
    found: dict[str, Tensor] = {}
    places = set[int]()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if place in places else plain
        places.add(place)
    return found


def _header(file: BinaryIO, size: int) -> dict[str, Any]:
    """The header of a safetensors file, and the file at its first tensor."""
    file.seek(0)
    length = int.from_bytes(file.read(LENGTH), "little")
    if not 2 <= length <= min(_LARGEST_HEADER, size - LENGTH):
        raise ValueError(f"its header cannot have {length} bytes")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    return header


def _check_tensors(path: Path | str) -> None:
    """Raise ValueError unless the tensors have the checksum that the file names."""
    with open_regular(Path(path)) as file:
        header = _header(file, file.seek(0, 2))
        named = header.pop(METADATA).get(_TENSORS_SUM)
        if _sum_of(header, iter(lambda: file.read(_BLOCK), b"")) != named:
            raise ValueError("the checksum of its tensors is another")


def _sum_of(header: Mapping[str, Any], data: Any) -> str:
    """The checksum of tensors, with their names, types and shapes."""
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for block in data:
        found.update(block)
    return found.hexdigest()


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
