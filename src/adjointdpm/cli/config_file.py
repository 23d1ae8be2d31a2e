"""`--config`: a YAML file whose values become the defaults of a command's flags.

Its keys are the flags' names. The `config.yaml` of a run folder is such a file.
"""

import json
from pathlib import Path
from typing import Any

import typer
import yaml

from adjointdpm.errors import InvalidInputError
from adjointdpm.optimization import settings
from adjointdpm.support.text_files import read_text

#: Former keys, and what they are called now.
RENAMED = settings.RENAMED | {
    "weights": "weight",
    "trackers": "tracker",
    "target_modules": "target_module",
    "budgets": "budget",
    "search": "random_search",
}


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """A callback of the flag: the file's values become the defaults of the command's flags.

    Raises:
        InvalidInputError: the file cannot be read, is of another command's run, or holds what this
            command has no flag for.

    """
    if path is None:
        return None
    values, command = _read(path), str(context.command.name)
    # Every run writes the first of these, and no flag has this name.
    task = values.pop("task", command)
    if task != command:
        raise InvalidInputError(
            f"--config {path} was written by `{task}`, not by `{command}`; choose the config.yaml "
            f"of a run of `{command}`"
        )
    known = {
        str(option.name): option
        for option in context.command.params
        if option.name not in (None, "config", "help")
    }
    unknown = sorted(set(values) - known.keys())
    _check_renamed(path, unknown)
    if unknown:
        raise InvalidInputError(
            f"--config {path}: unknown {', '.join(unknown)}; {command} takes "
            f"{', '.join(sorted(known))}"
        )
    defaults = {
        key: _listed(value) if getattr(known[key], "multiple", False) else value
        for key, value in values.items()
    }
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _listed(value: Any) -> list[Any]:
    """The value of a flag that can be repeated; a mapping becomes NAME=VALUE."""
    if isinstance(value, dict):
        return [f"{name}={json.dumps(entry)}" for name, entry in value.items()]
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _read(path: Path) -> dict[str, Any]:
    """The file's values by flag."""
    try:
        values = yaml.safe_load(read_text(path, "--config"))
    except yaml.YAMLError as error:
        raise InvalidInputError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InvalidInputError(f"--config {path} must hold flags and values, such as `steps: 50`")
    return {str(key).replace("-", "_"): value for key, value in values.items()}


def _check_renamed(path: Path, unknown: list[str]) -> None:
    """Raise InvalidInputError if a key has another name now."""
    if "optimisation" in unknown:
        raise InvalidInputError(
            f"--config {path}: the settings under `optimisation` now stand beside the other keys, "
            f"such as `iterations: 20`; move them there"
        )
    former = [f"`{key}` is now called `{RENAMED[key]}`" for key in unknown if key in RENAMED]
    if former:
        raise InvalidInputError(f"--config {path}: {'; '.join(former)}")
