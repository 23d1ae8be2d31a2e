"""The parts of a long task that are saved when done, so that an interrupted run repeats at most one
of them.
"""

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adjointdpm.errors import AdjointDPMWarning, CheckpointError
from adjointdpm.runs.interruption import Interrupted
from adjointdpm.support import tensor_file

Saved = tuple[dict[str, Tensor], dict[str, Any]]  # tensors, and facts that JSON can hold
Once = Callable[
    [str, Callable[[], Saved]], Saved
]  # by name: what the function returns, or what it had returned in an earlier run


def unsaved(name: str, make: Callable[[], Saved]) -> Saved:
    """The `Once` of work that is not kept."""
    return make()


@dataclass(frozen=True)
class Units:
    """Files `unit-NAME.safetensors` in a folder, one for each part that is done.

    A part may have parts of its own, named `NAME/…`: their files are in the folder `unit-NAME`,
    which goes when the whole is saved.

    Args:
        folder: where they lie; made when the first one is written.
        resume: take what is there instead of doing it again.
        stop: whether a signal has asked to stop; see `stop_requests`.

    """

    folder: Path
    resume: bool
    stop: Callable[[], bool]

    def once(self, name: str, make: Callable[[], Saved]) -> tuple[Saved, bool]:
        """What `make` returns, from the file if an earlier run saved it; and whether it came from
        there.

        Raises:
            Interrupted: a signal arrived; this part is done and saved.
            OutputError: the file could not be written.

        """
        path = self.folder / f"unit-{name}.safetensors"
        former = _read(path) if self.resume else None
        made = make() if former is None else former
        if former is None:
            tensor_file.write(path, *made)
        shutil.rmtree(self.folder / f"unit-{name}", ignore_errors=True)
        if self.stop():
            raise Interrupted(f"stopped after {name}, saved in {path}; go on with --resume")
        return made, former is not None


def _read(path: Path) -> Saved | None:
    if not path.exists():
        return None
    try:
        return tensor_file.read(path)
    except CheckpointError as error:
        warnings.warn(f"{error}; doing this part again", AdjointDPMWarning, stacklevel=2)
        return None
