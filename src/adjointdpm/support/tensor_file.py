"""Files of tensors and facts: safetensors, with the facts as JSON in the metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adjointdpm.errors import CheckpointError
from adjointdpm.support.files import write_bytes

# The only entry of the metadata: safetensors writes several in no fixed order, and then equal runs
# would leave different files.
_FACTS = "facts"


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """Write tensors and facts that JSON can hold; equal content gives equal files.

    Raises:
        OutputError: the write failed; what was there before is untouched.

    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return write_bytes(path, save(stored, metadata={_FACTS: json.dumps(dict(facts))}))


def read(
    path: Path | str, file_format: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, on the CPU, and the facts of a file that `write` wrote.

    Args:
        path: the file.
        file_format: what its fact "format" must be; None takes any file.

    Raises:
        CheckpointError: the file is missing, damaged, or of another format.

    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get(_FACTS, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} is no file of this library (its facts are no mapping)")
    if file_format is not None and facts.get("format") != file_format:
        raise CheckpointError(f"{path} has the format {facts.get('format')!r}, not {file_format!r}")
    return tensors, facts


def read_facts(path: Path | str) -> dict[str, Any]:
    """Read the facts alone; the tensors are left on disk.

    Raises:
        CheckpointError: the file is missing, damaged, or of another format.

    """
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get(_FACTS, "null"))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path} is no file of this library (its facts are no mapping)")
    return facts
