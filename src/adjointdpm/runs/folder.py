"""The folder that a run leaves behind, and who may write into it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from adjointdpm.errors import CheckpointError, InvalidInputError, OutputError
from adjointdpm.runs import lock, replacement
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.runs.input_files import check_same_pictures
from adjointdpm.runs.lock import RunLock
from adjointdpm.runs.mark import CONFIG, MARK, PROGRAM, Mark, may_be_artefact, other_run, read_mark
from adjointdpm.runs.stored_config import differences, dump_config, parse_config, read_config
from adjointdpm.runs.trackers import Trackers
from adjointdpm.runs.untrusted import check_links
from adjointdpm.support.distributed import Processes
from adjointdpm.support.files import (
    check_path,
    check_space,
    check_writable,
    write_bytes,
    write_text,
)
from adjointdpm.support.json_file import read_json_lines
from adjointdpm.support.strict_json import strict_json

_FRAMES = 8  # of a video, in the picture that shows it
_LEAST_SPACE = 8_000_000  # bytes: less is not even enough for pictures and a report


@dataclass(frozen=True)
class RunFolder:
    """`config.yaml`, `result.json`, `history.jsonl`, `images/`, `report.html` and the artefacts.

    A run that goes on also keeps `checkpoint/` and `trackers/` there. `run.json` marks the folder
    as a run of this program and lists its artefacts. `run.lock` is there while a process writes
    into it: one at a time may do so.

    Args:
        path: where it lies.
        previews: keep pictures and states while the run is going on; see `tasks.previews`.
        writable: True in the main process of a run only. In the others the write methods write
            nothing and return the path that the main process writes to. Code that writes into
            `path` by other means must ask this itself.

    """

    path: Path
    writable: bool = True
    previews: bool = False
    # Files that wait until a run which replaces the one in the folder begins: content by name.
    _waiting: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    _lock: RunLock | None = field(default=None, repr=False, compare=False)

    @classmethod
    def open(
        cls,
        path: Path,
        facts: dict[str, Any],
        *,
        artefacts: Sequence[str] = (),
        resume: bool = False,
        force: bool = False,
        part: bool = False,
        inputs: Mapping[str, str] | None = None,
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
            part: the run is a part of the one in the folder around it. It replaces such parts, and
                is replaced with the whole run.
            inputs: digests of the pictures that the run reads; with `resume` they must be the same.

        Raises:
            OutputError: the folder is not empty and neither flag is given, `force` would replace
                something that is no run, another process writes into the folder, or it cannot be
                written to.
            CheckpointError: `resume` in a folder of something else, or with other facts or
                pictures.
            InvalidInputError: an artefact outside the folder, or one of its own files.

        """
        for name in artefacts:
            if not may_be_artefact(name):
                raise InvalidInputError(
                    f"artefact {name!r} must be a path within the run folder, other than {CONFIG} "
                    f"and {MARK}"
                )
        check_path(path)
        processes, held = Processes(), list[RunLock]()
        mark = Mark(artefacts=[*artefacts], part=part, inputs={**(inputs or {})})
        text = dump_config(facts)
        if resume:
            processes.from_main(lambda: check_links(path, CheckpointError))
        waiting = processes.from_main(lambda: _prepare(path, mark, text, resume, force, held))
        return cls(
            path,
            processes.is_main,
            _waiting=waiting,
            _lock=held[0] if held else None,
        )

    def close(self) -> None:
        """Let other processes write into the folder; without it, when nothing refers to this."""
        if self._lock is not None:
            self._lock.release()

    @property
    def waits(self) -> bool:
        """Whether the run that this one replaces is still there; see `begin`."""
        return bool(self._waiting)

    @property
    def has_saved(self) -> bool:
        """Whether there is anything that a resumed run could go on from."""
        saved = self.checkpoints.folder
        return not self._waiting and saved.is_dir() and any(saved.glob("*.safetensors"))

    def begin(self) -> None:
        """Delete the run that `force` replaces, and nothing that it did not write.

        The old run stays until then, since the new one may still be refused. The write methods
        call this, and delete it when they have written something. Code that writes into `path` by
        other means must call it itself, unless one of them came first.

        Raises:
            OutputError: something cannot be replaced, or the new config cannot be written; the old
                run is as it was.

        """
        if self._waiting and self.writable:
            self._move_aside()
            self._forget()

    def _move_aside(self) -> None:
        mark = read_mark(self.path)
        replacement.move_aside(self.path, mark.artefacts if mark is not None else ())
        try:
            for name, content in self._waiting.items():
                write_text(self.path / name, content)
        except BaseException:
            replacement.restore(self.path)
            raise

    def _forget(self) -> None:
        self._waiting.clear()
        replacement.forget(self.path)

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
        """The records of `history.jsonl`; none if the file is not there.

        Raises:
            CheckpointError: a line cannot be read.

        """
        path = self.path / "history.jsonl"
        return [] if self._waiting or not path.exists() else read_json_lines(path)

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
        if not self.writable:
            return path
        if not self._waiting:
            return write_bytes(path, content)
        self._move_aside()
        try:
            write_bytes(path, content)
        except BaseException:
            replacement.restore(self.path)
            raise
        self._forget()
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
    path: Path, mark: Mark, config: str, resume: bool, force: bool, held: list[RunLock]
) -> dict[str, str]:
    """Lock the folder; write the mark and the config, or return them if they must wait."""
    if not path.is_dir() and (path.exists() or path.is_symlink()):
        raise OutputError(f"{path} is a file, or a link that leads nowhere; choose a folder")
    if path.is_dir() and (read_mark(path) is None or not _is_used(path)):
        # Nothing but a run is ever locked: what is refused stays as it is.
        _check(path, mark, config, resume, force)
    made = _make(path)
    try:
        held.append(RunLock.of(path))
        replacement.restore(path)
        _check(path, mark, config, resume, force)
        check_space(path, _LEAST_SPACE, "a run")
        # The mark first: a config without it is somebody else's.
        files = {MARK: mark.model_dump_json(indent=2) + "\n", CONFIG: config}
        if force and not resume and _is_used(path):
            check_writable(path)
            return files
        for name, content in files.items():
            write_text(path / name, content)
        return {}
    except BaseException:
        while held:
            held.pop().release()
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _make(path: Path) -> list[Path]:
    """Make a folder; return those that were made, the innermost first."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {path}: {error.strerror or error}; choose another"
        ) from error
    return missing


def _check(path: Path, mark: Mark, config: str, resume: bool, force: bool) -> None:
    """Check that a run of this mark and config may write into an existing folder."""
    if resume:
        _check_same(path, config)
        if (former := read_mark(path)) is not None:
            check_same_pictures(path, former.inputs, mark.inputs)
        return
    if not _is_used(path):
        return
    if not force:
        raise OutputError(
            f"{path} exists and is not empty; use --resume to go on with it, --force to replace "
            f"it, or another --out"
            if read_mark(path) is not None
            else f"{path} exists, is not empty, and holds no run of {PROGRAM}; choose another --out"
        )
    former = read_mark(path)
    if former is None:
        raise OutputError(
            f"{path} holds no run of {PROGRAM} (no {MARK} that says so), so --force will not "
            f"delete anything there; choose another --out, or empty the folder yourself"
        )
    if mark.part and not former.part:
        raise OutputError(
            f"{path} holds a run of its own, so --force will not replace it with a part of the run "
            f"around it; choose another --out, or move that run away"
        )
    if (inner := other_run(path, former.artefacts)) is not None:
        raise OutputError(
            f"{inner} is another run, so --force will not delete it with the one in {path}; move "
            f"it away, or choose another --out"
        )


def _is_used(path: Path) -> bool:
    """Whether anything would be lost.

    Nothing is lost if a run wrote only its mark and its config, since it was refused, say for its
    metric; nor are the temporary files of a write that was cut off.
    """
    names = _contents(path)
    return bool(names) and not (names <= {CONFIG, MARK} and read_mark(path) is not None)


def _contents(path: Path) -> set[str]:
    """What a folder holds besides a lock and the temporary files of a write that was cut off."""
    return {
        child.name
        for child in path.iterdir()
        if child.name != lock.NAME and not child.name.startswith((f".{CONFIG}.", f".{MARK}."))
    }


def _check_same(path: Path, config: str) -> None:
    """Check that a folder holds a run of this config, or one that never got to write its own."""
    if not path.is_dir() or not _contents(path):
        return  # a run that was killed before it wrote anything: nothing is lost
    try:
        if read_mark(path) is None:
            raise CheckpointError(f"it has no {MARK} of {PROGRAM}")
        if not _is_used(path) and not (path / CONFIG).exists():
            return
        former = read_config(path / CONFIG)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} holds no run that could be resumed: {error}; {_instead(path)}"
        ) from error
    if changes := differences(former, parse_config(config)):
        raise CheckpointError(
            f"the run in {path} has another config ({'; '.join(changes)}); resume it with the "
            f"same, or choose another --out"
        )


def _instead(path: Path) -> str:
    """What to do with a folder that holds nothing to resume."""
    if not _is_used(path):
        return "leave out --resume to start a run there"
    if read_mark(path) is not None:
        return "start it again with --force in place of --resume, or choose another --out"
    return "choose another --out"
