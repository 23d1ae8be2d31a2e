"""`--config`: a YAML file whose values become the defaults of a command's flags.

It may be the `config.yaml` of a run folder.
"""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import typer
import yaml

from adjointdpm.errors import InvalidInputError

# Flags that have another name than the setting of a run that they give.
_FLAGS = {
    "weights": "weight",
    "trackers": "tracker",
    "target_modules": "target_module",
    "learning_rate": "lr",
    "schedule": "lr_schedule",
    "max_gradient_norm": "clip",
}


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """A callback of the flag: the file's values become the defaults of the command's flags, so that
    flags override them.

    Raises:
        InvalidInputError: the file cannot be read, is of another command's run, or holds what this
            command has no flag for.

    """
    if path is None:
        return None
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInputError(f"--config {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise InvalidInputError(f"--config {path} must hold flags and values, such as `steps: 50`")
    values = {str(key).replace("-", "_"): value for key, value in values.items()}
    known = {
        str(option.name): option
        for option in context.command.params
        if option.name not in (None, "config", "help")
    }
    command = str(context.command.name)
    if "task" in values:  # every run writes it, and no flag has this name
        values = _flags_of_run(path, command, values, set(known))
    unknown = sorted(set(values) - known.keys())
    if unknown:
        raise InvalidInputError(
            f"--config {path}: unknown {', '.join(unknown)}; {command} takes "
            f"{', '.join(sorted(known))}"
        )
    defaults = {
        key: [value] if known[key].multiple and not isinstance(value, list) else value
        for key, value in values.items()
    }  # pyright: ignore[reportAttributeAccessIssue]
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def is_default(context: typer.Context, name: str) -> bool:
    """Whether nobody gave a parameter its value, neither by the flag nor by `--config`."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT"


def is_from_config(context: typer.Context, name: str) -> bool:
    """Whether a parameter has its value from `--config`."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT_MAP"


def _flags_of_run(
    path: Path, command: str, values: dict[str, Any], known: set[str]
) -> dict[str, Any]:
    """What repeats the run whose config this is, by flag; entries of it that nobody knows are left
    as they are.

    Args:
        path: for messages.
        command: who reads it.
        values: the config.
        known: the command's flags.

    Raises:
        InvalidInputError: the config is of another command's run, or has a value that no flag could
            give.

    """
    task = values.pop("task")
    if task != command:
        raise InvalidInputError(
            f"--config {path} was written by `{task}`, not by `{command}`; choose the config.yaml "
            f"of a run of `{command}`"
        )
    values, fixed = _flat(path, values), _without_flags(command)
    if command == "guide":
        values, derived = _flags_of_guide(path, values)
        fixed |= derived
    flags = {}
    for entry, value in values.items():
        name = _FLAGS.get(entry, entry)
        if name in known or entry not in fixed:
            flags[name] = value
        elif value != fixed[entry]:
            raise InvalidInputError(
                f"--config {path}: {entry} is {value!r}, but `{command}` has no flag for it and "
                f"uses {fixed[entry]!r}"
            )
    if flags.get("tracker") == []:
        flags["tracker"] = ["none"]  # no flag at all would be the default, which is one
    return flags


def _flat(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The settings under `optimisation` beside the others."""
    inner = values.pop("optimisation", {})
    if not isinstance(inner, dict):
        raise InvalidInputError(
            f"--config {path}: optimisation must hold settings and values, not {inner!r}"
        )
    for key in inner.keys() & values.keys():
        if inner[key] != values[key]:
            raise InvalidInputError(
                f"--config {path}: {key} is {values[key]!r}, but {inner[key]!r} under "
                f"optimisation; one flag gives both"
            )
    return values | inner


def _without_flags(command: str) -> dict[str, Any]:
    """By setting, what the command uses if it has no flag for it: the default."""
    from adjointdpm.optimization.settings import Settings
    from adjointdpm.tasks.audit.task import AuditConfig
    from adjointdpm.tasks.embed import EmbedConfig
    from adjointdpm.tasks.guide import GuideConfig
    from adjointdpm.tasks.stylize import StylizeConfig

    config = {
        "audit": AuditConfig,
        "embed": EmbedConfig,
        "guide": GuideConfig,
        "stylize": StylizeConfig,
    }[command]
    return {
        item.name: item.default
        for item in (*fields(Settings), *fields(config))
        if item.default is not MISSING
    }


def _flags_of_guide(path: Path, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`guide` derives some settings from its flags: the values with what they come from, and what
    it derives for the others.
    """
    prompts = values.pop("prompts", None)
    if (
        not isinstance(prompts, list)
        or not prompts
        or any(prompt != prompts[0] for prompt in prompts)
    ):
        raise InvalidInputError(
            f"--config {path}: prompts must be one prompt, once for each picture, not {prompts!r}"
        )
    pictures = len(prompts)
    batch, iterations = values.get("batch", pictures), values.get("iterations")
    values = values | {"prompt": prompts[0], "pictures": pictures}
    # What equals the default is left out: the default follows the flags that override --pictures
    # and --iterations.
    if batch == pictures:
        values.pop("batch", None)
    if values.get("patience") == iterations:
        values.pop("patience", None)
    derived = {"held_out": prompts[:1], "validate_every": 1}
    if isinstance(batch, int) and batch > 0:  # any other is refused as a flag's value
        derived["accumulate"] = pictures // batch
    return values, derived
