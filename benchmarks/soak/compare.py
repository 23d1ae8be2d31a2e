"""What two run folders must have in common if one was killed and resumed."""

import hashlib
import json
from pathlib import Path
from typing import Any

# What depends on the clock, the memory, or how often the run was started; the report shows it too.
_VOLATILE = {
    *("seconds", "seconds_optimising", "peak_memory_bytes", "command", "resumed"),
    *("network_calls", "network_calls_by_purpose"),
}
_LEFT_OUT = {"run.lock", "report.html"}
_OWN_FOLDERS = {"checkpoint", "trackers"}


def contents(folder: Path) -> dict[str, str]:
    """By the path of each file, what is in it: the text of JSON, the checksum of the rest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or name.name in _LEFT_OUT or name.parts[0] in _OWN_FOLDERS:
            continue
        if path.suffix == ".json":
            found[str(name)] = _stable(json.loads(path.read_text("utf-8")))
        elif path.suffix == ".jsonl":
            lines = path.read_text("utf-8").splitlines()
            found[str(name)] = "\n".join(_stable(json.loads(line)) for line in lines)
        else:
            found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The files that are in one folder only, or differ."""
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def _stable(value: Any) -> str:
    return json.dumps(_without_volatile(value), sort_keys=True)


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in _VOLATILE}
    return [_without_volatile(item) for item in value] if isinstance(value, list) else value
