"""Saved states of a run, one file each.

The two newest are kept, so that a damaged one costs a few iterations and not the run.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adjointdpm.errors import AdjointDPMWarning, CheckpointError
from adjointdpm.support import tensor_file
from adjointdpm.support.files import check_space

_KEPT = 2

Stored = tuple[dict[str, Tensor], dict[str, Any]]  # a state's tensors and facts


@dataclass(frozen=True)
class Checkpoints:
    """The files `state-NNNNNN.safetensors` of a folder; NNNNNN is the number of iterations done.

    Args:
        folder: holds the files; made when the first one is written.

    """

    folder: Path

    def write(self, iteration: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
        """Save the state after `iteration` iterations, and delete all but the two newest.

        Args:
            iteration: the number of iterations done.
            tensors: those of the state.
            facts: what else belongs to it; JSON must be able to hold it.

        Raises:
            OutputError: the write failed; the older files are untouched.

        """
        path = self.folder / f"state-{iteration:06d}.safetensors"
        tensor_file.write(path, tensors, {"iteration": iteration, **facts})
        for old in self._paths()[:-_KEPT]:
            old.unlink(missing_ok=True)
        return path

    @property
    def is_empty(self) -> bool:
        """Whether nothing was saved yet."""
        return not self._paths()

    def read(self, check: Callable[[Stored], None] = lambda stored: None) -> Stored:
        """Read the newest state that is whole: its tensors and facts.

        Args:
            check: raises CheckpointError for a state that cannot be gone on from; then the one
                before is read.

        Warns:
            AdjointDPMWarning: a newer one cannot be used; the message names file and field.

        Raises:
            CheckpointError: there is none, or none that can be used.

        """
        paths, reason = self._paths(), ""
        for path in reversed(paths):
            try:
                return _read(path, check)
            except CheckpointError as error:
                reason = str(error)
                if path != paths[0]:
                    warnings.warn(
                        f"checkpoint {reason}; going on from the one before",
                        AdjointDPMWarning,
                        stacklevel=2,
                    )
        if not paths:
            raise CheckpointError(f"{self.folder} holds no checkpoint to resume from")
        raise CheckpointError(
            f"no checkpoint in {self.folder} can be used ({', '.join(p.name for p in paths)}; "
            f"{reason}); start the run again with --force in place of --resume"
        )

    def check_space(self, size: int) -> None:
        """Check that the disk has room for states of so many bytes.

        Raises:
            OutputError: it has not.

        """
        places = (self.folder, *self.folder.absolute().parents)
        there = next(path for path in places if path.exists())
        # While one is written, those to keep are there too.
        check_space(there, (_KEPT + 1) * size, f"the run's state, saved {_KEPT + 1} times,")

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.safetensors"), key=_iteration)


def _read(path: Path, check: Callable[[Stored], None]) -> Stored:
    stored = tensor_file.read(path, checksum=True)
    try:
        check(stored)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    return stored


def _iteration(path: Path) -> tuple[int, str]:
    number = path.stem.removeprefix("state-")
    return int(number) if number.isascii() and number.isdigit() else -1, path.name
