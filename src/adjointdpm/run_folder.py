"""The folder that a run leaves behind, and who may write into it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import yaml
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from adjointdpm.checkpoints import Checkpoints
from adjointdpm.errors import CheckpointError, OutputError
from adjointdpm.files import write_bytes, write_text
from adjointdpm.processes import Processes
from adjointdpm.trackers import Trackers

_CONFIG = "config.yaml"


@dataclass(frozen=True)
class RunFolder:
    """`config.yaml`, `result.json`, `history.jsonl`, `images/`, `report.html`, the learned artefact, `checkpoint/` and `trackers/`.

    Args:
        path: where it lies.
        writable: False in all processes of a run but the main one: what the write methods are given is dropped, and they return the path
            that the main process writes to. Code that writes into `path` by other means must ask this itself.

    """

    path: Path
    writable: bool = True

    @classmethod
    def open(cls, path: Path, config: dict[str, Any], *, resume: bool = False, force: bool = False) -> Self:
        """Make the folder, or take an existing one over if the user said so, or if all that it holds is the config of a run.

        With several processes all must call this; the main one does it, the others wait and fail if it fails.

        Args:
            path: where; made if missing.
            config: everything that decides the run's result, as plain values; written to `config.yaml`.
            resume: go on with the run in this folder; its config must be the same.
            force: delete the run in this folder first.

        Raises:
            OutputError: the folder is not empty and neither flag is given, or `force` would delete something that is no run.
            CheckpointError: `resume` without a run here, or with another config.

        """
        processes = Processes()
        processes.from_main(lambda: _prepare(path, config, resume, force))
        return cls(path, processes.is_main)

    @property
    def checkpoints(self) -> Checkpoints:
        """The saved states of this run."""
        return Checkpoints(self.path / "checkpoint")

    def trackers(self, names: Sequence[str]) -> Trackers:
        """Experiment trackers that write into this folder.

        Raises:
            UnknownNameError, InvalidInputError: see `Trackers`.

        """
        return Trackers(names, self.path / "trackers")

    def read_history(self) -> list[dict[str, Any]]:
        """The records of `history.jsonl`; a last line that was cut off is left out."""
        path = self.path / "history.jsonl"
        records = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def write_history(self, records: list[dict[str, Any]]) -> None:
        """Write all records, one JSON object a line."""
        self._write(self.path / "history.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())

    def write_result(self, result: dict[str, Any]) -> Path:
        """Write `result.json`."""
        return self._write(self.path / "result.json", (json.dumps(result, indent=2) + "\n").encode())

    def write_images(self, names: list[str], images: Float[Tensor, "batch 3 height width"]) -> list[Path]:
        """Write pictures in [0, 1] as `images/NAME.png`."""
        return [self._write(self.path / "images" / f"{name}.png", png(image)) for name, image in zip(names, images, strict=True)]

    def _write(self, path: Path, content: bytes) -> Path:
        return write_bytes(path, content) if self.writable else path


def png(image: Float[Tensor, "3 height width"]) -> bytes:
    """A picture in [0, 1] as a PNG file."""
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _prepare(path: Path, config: dict[str, Any], resume: bool, force: bool) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file; choose a folder")
    used = path.is_dir() and any(path.iterdir()) and not _never_began(path)
    config = yaml.safe_load(yaml.safe_dump(config))  # as it will be read back
    if resume:
        _check_same(path, config)
    elif used and not force:
        raise OutputError(f"{path} exists and is not empty; use --resume to go on with it, --force to replace it, or another --out")
    elif used:
        if not (path / _CONFIG).is_file():
            raise OutputError(f"{path} holds no run of adjointdpm (no {_CONFIG}), so --force will not delete it; choose another --out")
        shutil.rmtree(path)
    write_text(path / _CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def _never_began(path: Path) -> bool:
    """Whether a run wrote its config here and nothing else: it was refused, say for its metric, and left nothing that could be lost."""
    if [child.name for child in path.iterdir()] != [_CONFIG]:
        return False
    try:
        config = yaml.safe_load((path / _CONFIG).read_text())
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(config, dict) and "task" in config  # and not a file of that name that somebody else wrote


def _check_same(path: Path, config: dict[str, Any]) -> None:
    try:
        former = yaml.safe_load((path / _CONFIG).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} holds no run that could be resumed: {error}") from error
    different = [key for key in {*config, *(former or {})} if (former or {}).get(key) != config.get(key)]
    if different:
        changes = "; ".join(f"{key}: {(former or {}).get(key)!r} then, {config.get(key)!r} now" for key in sorted(different))
        raise CheckpointError(f"the run in {path} has another config ({changes}); resume it with the same, or choose another --out")
