"""The folder that a run leaves behind, and who may write into it."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import yaml
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from adjointdpm.errors import CheckpointError, OutputError
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.runs.trackers import Trackers
from adjointdpm.support.distributed import Processes
from adjointdpm.support.files import check_writable, write_bytes, write_text

TASKS = ("audit", "demo", "embed", "guide", "stylize")
_CONFIG = "config.yaml"
# All that a run writes beside its config. The checkpoints are the first to go, so that nobody
# resumes from what is left.
_WRITTEN = (
    "checkpoint",
    "trackers",
    "images",
    "history.jsonl",
    "result.json",
    "report.html",
    "learned_embeds.safetensors",
    "pytorch_lora_weights.safetensors",
    "noise.safetensors",
    "prompt_embeds.safetensors",
    "adversarial_*.safetensors",
    "unet",
)
_PARTS = ("stylize", "audit")  # run folders inside that of a demo


@dataclass(frozen=True)
class RunFolder:
    """`config.yaml`, `result.json`, `history.jsonl`, `images/`, `report.html`, the learned
    artefact, `checkpoint/` and `trackers/`.

    Args:
        path: where it lies.
        writable: False in all processes of a run but the main one: what the write methods are given
            is dropped, and they return the path that the main process writes to. Code that writes
            into `path` by other means must ask this itself.

    """

    path: Path
    writable: bool = True
    # The config of a run that is to replace the one in the folder, until it begins.
    _waiting: list[str] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def open(
        cls, path: Path, config: dict[str, Any], *, resume: bool = False, force: bool = False
    ) -> Self:
        """Make the folder, or take an existing one over if the user said so, or if all that it
        holds is the config of a run.

        With several processes all must call this; the main one does it, the others wait and fail if
        it fails.

        Args:
            path: where; made if missing.
            config: everything that decides the run's result, as plain values; written to
                `config.yaml`. With a `task` of `TASKS` and the name of a `model` the folder is
                known as that of a run, which `force` may replace.
            resume: go on with the run in this folder; its config must be the same.
            force: replace the run in this folder; see `begin`.

        Raises:
            OutputError: the folder is not empty and neither flag is given, `force` would replace
                something that is no run, or the folder cannot be written to.
            CheckpointError: `resume` without a run here, or with another config.

        """
        processes = Processes()
        waiting = processes.from_main(lambda: _prepare(path, config, resume, force))
        return cls(path, processes.is_main, waiting)

    def begin(self) -> None:
        """Delete the run that `force` replaces, which stays as long as the new one may still be
        refused; files of others stay in any case.

        The write methods call this. Code that writes into `path` by other means must call it
        itself, unless one of them came first.

        Raises:
            OutputError: something cannot be deleted, or the new config cannot be written.

        """
        if not self._waiting or not self.writable:
            return
        try:
            _clear(self.path)
        except OSError as error:
            raise OutputError(
                f"the former run in {self.path} cannot be deleted: {error}"
            ) from error
        write_text(self.path / _CONFIG, self._waiting[0])
        self._waiting.clear()

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
        if self._waiting:
            return []
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
        self._write(
            self.path / "history.jsonl",
            "".join(json.dumps(record) + "\n" for record in records).encode(),
        )

    def write_result(self, result: dict[str, Any]) -> Path:
        """Write `result.json`."""
        return self._write(
            self.path / "result.json", (json.dumps(result, indent=2) + "\n").encode()
        )

    def write_images(
        self, names: list[str], images: Float[Tensor, "batch 3 height width"]
    ) -> list[Path]:
        """Write pictures in [0, 1] as `images/NAME.png`."""
        return [
            self._write(self.path / "images" / f"{name}.png", png(image))
            for name, image in zip(names, images, strict=True)
        ]

    def _write(self, path: Path, content: bytes) -> Path:
        if self.writable:
            self.begin()
            write_bytes(path, content)
        return path


def png(image: Float[Tensor, "3 height width"]) -> bytes:
    """A picture in [0, 1] as a PNG file."""
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _prepare(path: Path, config: dict[str, Any], resume: bool, force: bool) -> list[str]:
    """Write the config, or return it if it must wait for `begin`."""
    if not path.is_dir() and (path.exists() or path.is_symlink()):
        raise OutputError(f"{path} is a file, or a link that leads nowhere; choose a folder")
    used = path.is_dir() and _is_used(path)
    config = yaml.safe_load(yaml.safe_dump(config))  # as it will be read back
    if resume:
        _check_same(path, config)
    elif used and not force:
        raise OutputError(
            f"{path} exists and is not empty; use --resume to go on with it, --force to replace "
            f"it, or another --out"
        )
    elif used and not _is_run(path):
        raise OutputError(
            f"{path} holds no run of adjointdpm (no {_CONFIG} with a task and a model), so --force "
            f"will not delete anything there; choose another --out, or empty the folder yourself"
        )
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if used and not resume:
        check_writable(path)
        return [text]
    write_text(path / _CONFIG, text)
    return []


def _is_used(path: Path) -> bool:
    """Whether anything would be lost: not if a run wrote its config and nothing else, since it was
    refused, say for its metric.
    """
    names = {
        child.name for child in path.iterdir() if not child.name.startswith(f".{_CONFIG}.")
    }  # that of a write that was cut off
    return bool(names) and not (names == {_CONFIG} and _is_run(path))


def _is_run(path: Path) -> bool:
    """Whether the config in a folder is what a task writes there, and not somebody else's file of
    that name.
    """
    try:
        config = _read_config(path)
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return config.get("task") in TASKS and isinstance(config.get("model"), str)


def _read_config(path: Path) -> dict[str, Any]:
    config = yaml.safe_load((path / _CONFIG).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"its {_CONFIG} is no mapping")
    return config


def _clear(path: Path) -> None:
    """Delete what a run wrote, but for its config: what an interruption leaves is still known as a
    run.
    """
    for pattern in _WRITTEN:
        for found in path.glob(pattern):
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()
    for part in (path / name for name in _PARTS):
        if _is_run(part):
            _clear(part)
            (part / _CONFIG).unlink()
            with suppress(OSError):  # somebody keeps files of his own there
                part.rmdir()


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings as `outer.inner`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= (
            _flat(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return found


def _check_same(path: Path, config: dict[str, Any]) -> None:
    try:
        former = _read_config(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} holds no run that could be resumed: {error}") from error
    then, now = _flat(former), _flat(config)
    different = [key for key in {*now, *then} if then.get(key) != now.get(key)]
    if different:
        changes = "; ".join(
            f"{key}: {then.get(key)!r} then, {now.get(key)!r} now" for key in sorted(different)
        )
        raise CheckpointError(
            f"the run in {path} has another config ({changes}); resume it with the same, or choose "
            f"another --out"
        )
