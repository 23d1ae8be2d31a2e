"""Blocks of work that several processes share, by way of a folder that all of them see.

A block is always the same examples, whatever the number of processes: its result is the same bit
for bit, and a run that was interrupted can go on with another number of processes.
"""

import secrets
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adjointdpm.errors import AdjointDPMWarning, CheckpointError, OutputError
from adjointdpm.runs.folder import RunFolder
from adjointdpm.runs.interruption import Interrupted
from adjointdpm.support import tensor_file
from adjointdpm.support.distributed import Processes
from adjointdpm.support.files import write_text

_PAUSE = 0.2  # seconds between two looks for what the other processes have done


@dataclass
class SharedBlocks:
    """Which blocks of work are done, and by whom the others are done.

    Args:
        processes: that share the work.
        folder: where the results of blocks are kept: the checkpoint folder of the run.
        requested: whether this process was asked to stop.
        restored_seconds: what the blocks took that an earlier run had done.

    """

    processes: Processes
    folder: Path
    requested: Callable[[], bool]
    restored_seconds: float = 0.0
    _done: set[str] = field(default_factory=set)

    @classmethod
    def open(
        cls, folder: RunFolder, processes: Processes, resume: bool, requested: Callable[[], bool]
    ) -> "SharedBlocks":
        """Begin the run in its folder, or go on with it.

        Raises:
            OutputError: a process does not see the folder, or it cannot be written to.

        """
        shared = cls(processes, folder.path / "checkpoint", requested)
        token = shared.folder / f"seen-{processes.from_main(lambda: secrets.token_hex(4))}"

        def begin() -> None:
            folder.begin()
            if not resume:
                shutil.rmtree(shared.folder, ignore_errors=True)
            for former in (shared._flag, *shared.folder.glob("met-*")):
                former.unlink(missing_ok=True)
            if processes.count > 1:
                write_text(token, "")

        processes.from_main(begin)
        with processes.together():
            if processes.count > 1 and not token.exists():
                raise OutputError(
                    f"process {processes.index} does not see {shared.folder}, which the first "
                    f"process has made; choose an --out that all processes share"
                )
        processes.from_main(lambda: token.unlink(missing_ok=True))
        return shared

    @property
    def _flag(self) -> Path:
        return self.folder / "stop"

    def stop(self) -> bool:
        """Whether this process or another was asked to stop, or has failed."""
        return self.requested() or (self.processes.count > 1 and self._flag.exists())

    @contextmanager
    def ending_together(self) -> Iterator[None]:
        """End all processes where one is asked to stop or fails.

        The block must not call methods of `Processes` that every process must call.

        Raises:
            Interrupted: some process was asked to stop.
            Exception: what a process raised; see `Processes.together`.

        """
        stopped: Interrupted | None = None
        with self.processes.together():
            try:
                yield
            except Interrupted as stop:
                stopped = stop
                self._stop_others()
            except Exception:
                self._stop_others()
                raise
        if self.processes.any(stopped is not None):
            raise stopped or Interrupted("another process was stopped; go on with --resume")

    def _stop_others(self) -> None:
        if self.processes.count > 1:
            write_text(self._flag, f"process {self.processes.index}\n")

    def done(self, name: str) -> bool:
        """Whether some process has done a block."""
        if name not in self._done and self.path(name).exists():
            self._done.add(name)
        return name in self._done

    def path(self, name: str) -> Path:
        """Where the result of a block is kept."""
        return self.folder / f"unit-{name}.safetensors"

    def share(
        self,
        names: Sequence[str],
        work: Callable[[int], None],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Do this process's part of the blocks, and wait until the others have done theirs.

        Args:
            names: of the blocks. What an earlier run has done is not done again.
            work: does the block of a number, and keeps it under its name.
            meanwhile: called after each block and while this process waits.

        Raises:
            Interrupted: a process was asked to stop, or has failed.

        """
        pending = [number for number, name in enumerate(names) if not self._restored(name)]
        # All must see the same blocks as pending, so none begins before all have looked.
        self._meet(f"{names[0]}-of-{len(names)}" if names else "")
        for number in pending[self.processes.index :: self.processes.count]:
            work(number)
            meanwhile()
        while not all(self.done(name) for name in names):
            if self.stop():
                raise Interrupted("another process was stopped; go on with --resume")
            meanwhile()
            time.sleep(_PAUSE)
        meanwhile()

    def _meet(self, what: str) -> None:
        """Wait for all processes, and leave if one of them has stopped."""
        if self.processes.count == 1:
            return
        write_text(self.folder / f"met-{what}-{self.processes.index}", "")
        met = [self.folder / f"met-{what}-{i}" for i in range(self.processes.count)]
        while not all(path.exists() for path in met):
            if self.stop():
                raise Interrupted("another process was stopped; go on with --resume")
            time.sleep(_PAUSE)

    def _restored(self, name: str) -> bool:
        """Whether an earlier run has done a block, and left it whole."""
        if not self.path(name).exists():
            return False
        try:
            _, facts = tensor_file.read(self.path(name), checksum=True)
            self.restored_seconds += float(facts["seconds"])
        except (CheckpointError, KeyError, TypeError, ValueError) as error:
            warnings.warn(f"{error}; doing this part again", AdjointDPMWarning, stacklevel=2)
            self.path(name).unlink(missing_ok=True)
            return False
        return self.done(name)

    def facts(self, name: str) -> dict[str, Any]:
        """What was found about a block.

        Raises:
            CheckpointError: its file is missing or damaged.

        """
        return tensor_file.read_facts(self.path(name))


def block_size(count: int, most: int) -> int:
    """How many of `count` examples are a block: few enough to share out, many enough to be quick.

    Args:
        count: of the examples.
        most: that are in one graph; a block of a large audit has four times as many, since those
            that are done make room.

    """
    return 4 * most if count >= 32 * most else max(1, min(most, -(-count // 4)))
