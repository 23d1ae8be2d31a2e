"""Files of tensors and facts."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file

from adjointdpm.errors import CheckpointError
from adjointdpm.support import tensor_file
from adjointdpm.support.safetensors_bytes import save

FACTS = {"format": "test", "names": ["a", "b"], "budget": None, "share": 0.1}


def test_what_is_written_is_read(tmp_path) -> None:
    tensors = {"x": torch.randn(2, 3, requires_grad=True), "y": torch.arange(3).flip(0)[::2]}
    tensors |= {"same": tensors["x"], "part": tensors["x"][1:], "none": torch.zeros(0)}
    path = tensor_file.write(tmp_path / "made" / "x.safetensors", tensors, FACTS)
    found, facts = tensor_file.read(path, "test")
    assert facts == FACTS
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_equal_content_gives_equal_files(tmp_path) -> None:
    tensors = {name: torch.zeros(2) for name in "cab"}
    files = {tensor_file.write(tmp_path / str(i), tensors, FACTS).read_bytes() for i in range(8)}
    assert len(files) == 1


def test_files_that_cannot_be_used_are_named_with_the_reason(tmp_path) -> None:
    def refused(path: Path, message: str, file_format: str | None = None) -> None:
        with pytest.raises(CheckpointError, match=f"{path.name} {message}"):
            tensor_file.read(path, file_format)

    path = tensor_file.write(tmp_path / "x", {"x": torch.zeros(9)}, FACTS)
    refused(tmp_path / "missing", "does not exist")
    refused(path, "has the format 'test', not 'other'", "other")
    path.write_bytes(path.read_bytes()[:-8])
    refused(path, "is damaged")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign", {"format": "pt"})
    refused(tmp_path / "foreign", "is no file of this library")
    save_file({"x": torch.zeros(1)}, tmp_path / "list", {"facts": "[]"})
    refused(tmp_path / "list", "is no file of this library")
    save_file({"x": torch.zeros(1)}, tmp_path / "text", {"facts": "{"})
    refused(tmp_path / "text", "is damaged")


def test_metadata_are_in_the_order_of_their_names() -> None:
    metadata = {name: "ü" for name in "hagfbedc"}
    content = save({"b": torch.ones(3), "a": torch.zeros(2)}, metadata)
    assert content == save(
        {"a": torch.zeros(2), "b": torch.ones(3)}, dict(reversed(metadata.items()))
    )
    assert torch.equal(load(content)["b"], torch.ones(3))
    header = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
    assert [c for c in header[header.index("{", 1) : header.index("}")] if c in "abcdefgh"] == [
        *"abcdefgh"
    ]
