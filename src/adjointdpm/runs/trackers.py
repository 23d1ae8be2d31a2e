"""Experiment trackers, through Accelerate: the numbers of every iteration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adjointdpm.errors import InvalidInputError, UnknownNameError

_PROJECT = "adjointdpm"


class Trackers:
    """Sends records of the loop to trackers; only the main process uses it.

    Args:
        names: "tensorboard", or any other that Accelerate knows and that is installed.
        folder: where those that write files write them.

    Raises:
        UnknownNameError: Accelerate knows no tracker of that name.
        InvalidInputError: its package is not installed.

    """

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.names, self.folder = list(dict.fromkeys(names)), folder
        self._running: list[Any] = []
        if names:
            _check(self.names)

    def _start(self) -> None:
        for name in self.names:
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            kind: Any = LOGGER_TYPE_TO_CLASS[name]
            if kind.requires_logging_directory:
                self.folder.mkdir(parents=True, exist_ok=True)
                tracker = kind(_PROJECT, logging_dir=self.folder)
            else:
                tracker = kind(_PROJECT)
            tracker.start()
            self._running.append(tracker)

    def log(self, record: dict[str, Any]) -> None:
        """Send the numbers of one record: "training/metric", "gradient_norm" and so on.

        The first record opens the trackers: until there is one, nothing is written to `folder`.
        """
        if not self._running:
            self._start()
        values = flatten(record)
        iteration = values.pop("iteration")
        for tracker in self._running:
            tracker.log(values, step=iteration)

    def finish(self) -> None:
        """Close the trackers."""
        while self._running:
            self._running.pop().finish()


def flatten(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a/b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in record.items():
        flat |= (
            flatten(value, f"{prefix}{name}/")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return flat


def _check(names: Sequence[str]) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UnknownNameError(
                f"tracker {name!r} is unknown; choose from {', '.join(LOGGER_TYPE_TO_CLASS)}"
            )
        if name not in installed:
            extra = f'"adjointdpm[{name}]"' if name == "tensorboard" else name
            there = f"; installed are {', '.join(sorted(installed))}" if installed else ""
            raise InvalidInputError(
                f"tracker {name!r} needs a package that is not installed: pip install {extra}"
                f"{there}"
            )
