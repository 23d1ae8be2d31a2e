"""Steps of a long task that are saved when done: an interrupted run repeats at most one of them."""

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

#: Tensors, and facts that JSON can hold.
Saved = tuple[dict[str, Tensor], dict[str, Any]]
#: By name: what the function returns, or what it had returned in an earlier run.
Once = Callable[[str, Callable[[], Saved]], Saved]


def unsaved(name: str, make: Callable[[], Saved]) -> Saved:
    """The `Once` of work that is not kept."""
    return make()


@dataclass(frozen=True)
class ResumableSteps:
    """Files `unit-NAME.safetensors` in a folder, one for each step that is done.

    A step may have steps of its own, named `NAME/…`. Their files are in the folder `unit-NAME`,
    which is deleted when the whole step is saved.

    Args:
        folder: where they lie; made when the first one is written.
        resume: take what is there instead of doing it again.
        stop: whether a signal has asked to stop; see `stop_requests`.

    """

    folder: Path
    resume: bool
    stop: Callable[[], bool]

    def once(self, name: str, make: Callable[[], Saved]) -> tuple[Saved, bool]:
        """Do a step and save it, or read what an earlier run saved.

        Returns:
            What `make` returned, and whether an earlier run had saved it.

        Raises:
            Interrupted: a signal arrived; this step is done and saved.
            OutputError: the file could not be written.

        Warns:
            AdjointDPMWarning: an earlier run's file is damaged; the step is done again.

        """
        path = self.folder / f"unit-{name}.safetensors"
        former = _read(path) if self.resume and path.exists() else None
        made = make() if former is None else former
        if former is None:
            tensor_file.write(path, *made)
        shutil.rmtree(self.folder / f"unit-{name}", ignore_errors=True)
        if self.stop():
            raise Interrupted(f"stopped after {name}, saved in {path}; go on with --resume")
        return made, former is not None


def _read(path: Path) -> Saved | None:
    try:
        return tensor_file.read(path, checksum=True)
    except CheckpointError as error:
        warnings.warn(f"{error}; doing this part again", AdjointDPMWarning, stacklevel=2)
        return None
