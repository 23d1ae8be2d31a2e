"""`--config`: a YAML file whose values become the defaults of a command's flags.

Its keys are the flags' names. The `config.yaml` of a run folder is such a file.
"""

import json
import re
from pathlib import Path
from typing import Any

import typer
import yaml

from adjointdpm.errors import InvalidInputError
from adjointdpm.optimization import settings
from adjointdpm.runs.mark import MARK
from adjointdpm.support.text_files import read_text
from adjointdpm.support.yaml_values import is_null, read_entries, text_of, value_of
from adjointdpm.tasks.config import NAME_VALUE

#: How --help calls a file of prompts; in a --config file the prompts may stand themselves.
PROMPTS = "FILE"

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

    A value is read as the flag reads the same text.

    Raises:
        InvalidInputError: the file cannot be read, is of another command's run, or holds what this
            command has no flag for.

    """
    if path is None:
        return None
    entries, command = _read(path), str(context.command.name)
    # Every run writes the first of these, and no flag has this name.
    task = text_of(entries.pop("task")) if "task" in entries else command
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
    unknown = sorted(set(entries) - known.keys())
    _check_renamed(path, unknown)
    if unknown:
        raise InvalidInputError(
            f"--config {path}: unknown {', '.join(unknown)}; {command} takes "
            f"{', '.join(sorted(known))}"
        )
    defaults = {}
    for key, node in entries.items():
        try:
            defaults[key] = _value(known[key], node)
        except ValueError as error:
            raise InvalidInputError(f"--config {path}: {key} {error}") from error
        _check_code(path, key, defaults[key])
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _value(option: Any, node: yaml.Node) -> Any:
    """The value of a flag: texts, which the flag reads; a mapping becomes NAME=VALUE.

    Raises:
        ValueError: the flag has no such values.

    """
    several = getattr(option, "multiple", False)
    if is_null(node):
        return [] if several else None
    if isinstance(node, yaml.MappingNode) and option.metavar == NAME_VALUE:
        entries = value_of(node)
        return [f"{name}={json.dumps(entry)}" for name, entry in entries.items()]
    if isinstance(node, yaml.SequenceNode) and (several or option.metavar == PROMPTS):
        return [text_of(entry) for entry in node.value]
    return [text_of(node)] if several else text_of(node)


def _read(path: Path) -> dict[str, yaml.Node]:
    """The file's entries by flag."""
    try:
        entries = read_entries(read_text(path, "--config"))
        found = {key.replace("-", "_"): node for key, node in entries.items()}
        if len(found) < len(entries):
            raise ValueError("a key stands there twice, with - and with _")
    except ValueError as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"--config {path} cannot be used: {error}") from error
    return found


def _check_code(path: Path, key: str, value: Any) -> None:
    """Raise InvalidInputError if a run folder's config would run a Python file of that folder.

    Runs write none: somebody put it there.
    """
    home = path.resolve().parent
    if not (home / MARK).exists():
        return
    for text in value if isinstance(value, list) else [value]:
        for name in re.findall(r"[^=,\"']+\.py(?![^:,\"'])", text or ""):
            if Path(name).resolve().is_relative_to(home):
                raise InvalidInputError(
                    f"--config {path}: {key} names {name}, a Python file inside the run folder, "
                    f"where runs put none; if you trust it, move it elsewhere and name it yourself"
                )


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
