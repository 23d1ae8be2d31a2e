"""The folder that a run leaves behind, and who may write into it."""

import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Self

import torch
import yaml
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from adjointdpm.errors import CheckpointError, InvalidInputError, OutputError
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.runs.trackers import Trackers
from adjointdpm.runs.untrusted import check_links
from adjointdpm.support.distributed import Processes
from adjointdpm.support.files import check_writable, write_bytes, write_text
from adjointdpm.support.strict_json import strict_json

_CONFIG = "config.yaml"
# Marks the folder as that of a run, and lists the artefacts: what `force` may delete later.
_MARK = "run.json"
_PROGRAM = "adjointdpm"
_FRAMES = 8  # of a video, in the picture that shows it
# What every run may leave, whatever its task. The checkpoints are deleted first, so that nobody
# resumes from what is left.
_OF_EVERY_RUN = (
    "checkpoint",
    "trackers",
    "images",
    "history.jsonl",
    "result.json",
    "report.html",
)


@dataclass(frozen=True)
class RunFolder:
    """`config.yaml`, `result.json`, `history.jsonl`, `images/`, `report.html` and the artefacts.

    A run that goes on also keeps `checkpoint/` and `trackers/` there. `run.json` marks the folder
    as a run of this program and lists its artefacts.

    Args:
        path: where it lies.
        writable: True in the main process of a run only. In the others the write methods write
            nothing and return the path that the main process writes to. Code that writes into
            `path` by other means must ask this itself.

    """

    path: Path
    writable: bool = True
    # Files that wait until a run which replaces the one in the folder begins: content by name.
    _waiting: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        path: Path,
        facts: dict[str, Any],
        *,
        artefacts: Sequence[str] = (),
        resume: bool = False,
        force: bool = False,
    ) -> Self:
        """Make the folder, or take over an existing one.

        A folder that is not empty is only taken over with `resume` or `force`, or if all that it
        holds is the config of a run that never began. With several processes all must call this:
        the main one does the work, the others wait and fail if it fails.

        Args:
            path: the folder; made if missing.
            facts: everything that decides the run's result, as plain values; written to
                `config.yaml`.
            artefacts: files and folders that the run leaves here beside those of every run, as
                paths relative to `path`. One that ends in "/" is a run folder of its own, of which
                `force` deletes only what that run has left.
            resume: go on with the run in this folder; its facts must be the same.
            force: replace the run in this folder; see `begin`.

        Raises:
            OutputError: the folder is not empty and neither flag is given, `force` would replace
                something that is no run, or the folder cannot be written to.
            CheckpointError: `resume` without a run here, or with other facts.
            InvalidInputError: an artefact outside the folder, or one of its own files.

        """
        for name in artefacts:
            if not _may_be_artefact(name):
                raise InvalidInputError(
                    f"artefact {name!r} must be a path within the run folder, other than "
                    f"{_CONFIG} and {_MARK}"
                )
        processes = Processes()
        if resume:
            processes.from_main(lambda: check_links(path, CheckpointError))
        waiting = processes.from_main(lambda: _prepare(path, facts, artefacts, resume, force))
        return cls(path, processes.is_main, waiting)

    def begin(self) -> None:
        """Delete the run that `force` replaces, and nothing that it did not write.

        The old run stays until then, since the new one may still be refused. The write methods
        call this. Code that writes into `path` by other means must call it itself, unless one of
        them came first.

        Raises:
            OutputError: something cannot be deleted, or the new config cannot be written.

        """
        if not self._waiting or not self.writable:
            return
        try:
            _clear(self.path, _artefacts_of(self.path) or ())
        except OSError as error:
            raise OutputError(
                f"the former run in {self.path} cannot be deleted: {error}"
            ) from error
        for name, content in self._waiting.items():
            write_text(self.path / name, content)
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
            "".join(strict_json(record) + "\n" for record in records).encode(),
        )

    def write_result(self, result: dict[str, Any]) -> Path:
        """Write `result.json`."""
        return self._write(
            self.path / "result.json", (strict_json(result, indent=2) + "\n").encode()
        )

    def write_images(
        self, names: list[str], images: Float[Tensor, "batch *frames 3 height width"]
    ) -> list[Path]:
        """Write pictures in [0, 1] as `images/NAME.png`; of videos, some frames side by side."""
        return [
            self._write(self.path / "images" / f"{name}.png", png(image))
            for name, image in zip(names, images, strict=True)
        ]

    def _write(self, path: Path, content: bytes) -> Path:
        if self.writable:
            self.begin()
            write_bytes(path, content)
        return path


def png(image: Float[Tensor, "*frames 3 height width"]) -> bytes:
    """A picture in [0, 1] as a PNG file; of a video, up to eight frames side by side."""
    if image.ndim == 4:
        count = min(len(image), _FRAMES)
        shown = [round(i * (len(image) - 1) / max(1, count - 1)) for i in range(count)]
        image = torch.cat(list(image[shown]), -1)
    pixels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _prepare(
    path: Path, facts: dict[str, Any], artefacts: Sequence[str], resume: bool, force: bool
) -> dict[str, str]:
    """Write the mark and the config, or return them if they must wait for `begin`."""
    if not path.is_dir() and (path.exists() or path.is_symlink()):
        raise OutputError(f"{path} is a file, or a link that leads nowhere; choose a folder")
    used = path.is_dir() and _is_used(path)
    facts = yaml.safe_load(yaml.safe_dump(facts))  # as it will be read back
    if resume:
        _check_same(path, facts)
    elif used and not force:
        raise OutputError(
            f"{path} exists and is not empty; use --resume to go on with it, --force to replace "
            f"it, or another --out"
        )
    elif used and _artefacts_of(path) is None:
        raise OutputError(
            f"{path} holds no run of {_PROGRAM} (no {_MARK} that says so), so --force will not "
            f"delete anything there; choose another --out, or empty the folder yourself"
        )
    mark = {"program": _PROGRAM, "artefacts": list(artefacts)}
    files = {  # the mark first: a config without it is somebody else's
        _MARK: json.dumps(mark, indent=2) + "\n",
        _CONFIG: yaml.safe_dump(facts, sort_keys=False, allow_unicode=True),
    }
    if used and not resume:
        check_writable(path)
        return files
    for name, content in files.items():
        write_text(path / name, content)
    return {}


def _is_used(path: Path) -> bool:
    """Whether anything would be lost.

    Nothing is lost if a run wrote only its mark and its config, since it was refused, say for its
    metric; nor are the temporary files of a write that was cut off.
    """
    names = {
        child.name
        for child in path.iterdir()
        if not child.name.startswith((f".{_CONFIG}.", f".{_MARK}."))
    }
    return bool(names) and not (names <= {_CONFIG, _MARK} and _artefacts_of(path) is not None)


def _artefacts_of(path: Path) -> list[str] | None:
    """What the run in a folder declared; None if the folder is not that of a run."""
    try:
        mark = json.loads((path / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(mark, dict) or mark.get("program") != _PROGRAM:
        return None
    artefacts = mark.get("artefacts")
    if not isinstance(artefacts, list) or not all(map(_may_be_artefact, artefacts)):
        return None
    return artefacts


def _may_be_artefact(name: object) -> bool:
    """Whether deleting a path of this name can only delete something within the run folder."""
    if not isinstance(name, str):
        return False
    parts = PurePosixPath(name).parts
    return bool(parts) and not {"/", ".."} & {*parts} and parts[0] not in (_CONFIG, _MARK)


def _read_config(path: Path) -> dict[str, Any]:
    config = yaml.safe_load((path / _CONFIG).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"its {_CONFIG} is no mapping")
    return config


def _clear(path: Path, artefacts: Sequence[str]) -> None:
    """Delete what a run wrote, except its mark and config.

    What an interrupted deletion leaves is therefore still known as a run.
    """
    for name in (*_OF_EVERY_RUN, *artefacts):
        found = path / name
        if not found.parent.resolve().is_relative_to(path.resolve()):
            continue  # behind a link that leads out of the folder
        if name.endswith("/"):
            _clear_part(found)
        elif found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)


def _clear_part(path: Path) -> None:
    """Delete a run within a run, and its folder unless somebody keeps other files there."""
    artefacts = _artefacts_of(path)
    if artefacts is None or path.is_symlink():
        return
    _clear(path, artefacts)
    (path / _CONFIG).unlink(missing_ok=True)
    (path / _MARK).unlink()
    with suppress(OSError):
        path.rmdir()


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
        if _artefacts_of(path) is None:
            raise ValueError(f"it has no {_MARK} of {_PROGRAM}")
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
