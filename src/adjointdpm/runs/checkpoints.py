"""Saved states of a run: one safetensors file each, the two newest kept, so that a damaged one
costs a few iterations and not the run.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adjointdpm.errors import AdjointDPMWarning, CheckpointError
from adjointdpm.support.files import write_bytes

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
        content = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"facts": json.dumps({"iteration": iteration, **facts})},
        )
        path = write_bytes(self.folder / f"state-{iteration:06d}.safetensors", content)
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
                with safe_open(path, "pt") as file:
                    facts = json.loads(file.metadata()["facts"])
                    return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 - not a dict
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                warnings.warn(
                    f"checkpoint {path} is damaged ({error}); trying the one before",
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
