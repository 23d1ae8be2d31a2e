"""Saved states of a run, one file each.

The two newest are kept, so that a damaged one costs a few iterations and not the run.
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

    def read(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read the newest state that is not damaged: its tensors and facts.

        Warns:
            AdjointDPMWarning: a newer one is damaged.

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
