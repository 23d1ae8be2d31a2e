"""`config.yaml` of a run folder: everything that decides the run's result."""

from pathlib import Path
from typing import Any

import yaml

from adjointdpm.errors import CheckpointError, InvalidInputError
from adjointdpm.support.files import read_bounded

_MOST = 2**25  # bytes: a long list of prompts


class _NoAliases(yaml.SafeLoader):
    """Refuses references, by which a few lines can stand for gigabytes; no run writes them."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds references (*name)")
        return super().compose_node(parent, index)


class _WrittenOut(yaml.SafeDumper):
    """Writes what occurs twice out twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump_config(facts: dict[str, Any]) -> str:
    """A config as YAML.

    Raises:
        InvalidInputError: a text in it is no text.

    """
    _check_texts(facts, "")
    return yaml.dump(facts, Dumper=_WrittenOut, sort_keys=False, allow_unicode=True)


def parse_config(text: str) -> dict[str, Any]:
    """What `dump_config` wrote.

    Raises:
        CheckpointError: it is something else.

    """
    try:
        found = yaml.load(text, _NoAliases)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"it cannot be read as YAML: {reason}") from error
    if not isinstance(found, dict):
        raise CheckpointError("it is no mapping")
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run.

    Raises:
        CheckpointError: it cannot be read; the message names the file.

    """
    try:
        return parse_config(read_bounded(path, _MOST).decode())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, CheckpointError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two configs, setting by setting."""
    flat_then, flat_now = _flat(then), _flat(now)
    return [
        f"{key}: {flat_then.get(key)!r} then, {flat_now.get(key)!r} now"
        for key in sorted({*flat_now, *flat_then})
        if flat_then.get(key) != flat_now.get(key)
    ]


def _flat(config: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Settings within settings as `outer.inner`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _check_texts(value: Any, name: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_texts(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            _check_texts(item, name)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError(
                f"{name}={value!a} holds bytes that are no UTF-8 text; write it anew"
            ) from error
