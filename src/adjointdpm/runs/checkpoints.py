"""Saved states of a run: one safetensors file each, the two newest kept, so that a damaged one
costs a few iterations and not the run.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adjointdpm.errors import AdjointDPMWarning, CheckpointError
from adjointdpm.support import tensor_file

_KEPT = 2


@dataclass(frozen=True)
class Checkpoints:
    """The files `state-NNNNNN.safetensors` of a folder; NNNNNN is the number of iterations done.

    Args:
        folder: where they lie; made when the first one is written.

    """

    folder: Path

    def write(self, iteration: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
        """Save tensors and JSON-able facts after `iteration` iterations, and delete all but the
        newest two.

        Raises:
            OutputError: the write failed; the older files are untouched.

        """
        path = self.folder / f"state-{iteration:06d}.safetensors"
        tensor_file.write(path, tensors, {"iteration": iteration, **facts})
        for old in self._paths()[:-_KEPT]:
            old.unlink(missing_ok=True)
        return path

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The newest state that can be read; a damaged one is named in a warning and the one before
        is taken.

        Raises:
            CheckpointError: there is none, or none that can be read.

        """
        paths = self._paths()
        for path in reversed(paths):
            try:
                return tensor_file.read(path)
            except CheckpointError as error:
                warnings.warn(
                    f"checkpoint {error}; trying the one before",
                    AdjointDPMWarning,
                    stacklevel=2,
                )
        if paths:
            raise CheckpointError(
                f"no checkpoint in {self.folder} can be read ({', '.join(p.name for p in paths)}); "
                f"start again without --resume"
            )
        raise CheckpointError(
            f"{self.folder} holds no checkpoint to resume from; start again without --resume"
        )

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("state-*.safetensors"))
