"""Command lines: short runs of every command, with some flags' values changed."""

import functools
import inspect
import json
import math
from pathlib import Path
from random import Random
from typing import Any, get_args

from fuzz.inputs import BASE, PLAIN, arguments, link
from fuzz.texts import values
from fuzz.verdict import Verdict, command

TITLE = "command lines"
COMMANDS = [*BASE, "report"]
_EXTRA = [
    [],
    ["extra"],
    ["--nothing"],
    ["--steps"],
    ["-x"],
    ["--"],
    ["--resume"],
    ["--force"],
    [""],
]
_EXTRA += [["--resume", "--force"], ["--config", "fifo"], ["--config", "/dev/zero"], ["\udcff"]]


@functools.cache
def flags(name: str) -> dict[str, str]:
    """Flags and arguments of a command that take a value, and their types in words."""
    from adjointdpm import cli

    (function,) = [
        c.callback
        for c in cli.app.registered_commands
        if c.callback is not None and c.callback.__name__ == name
    ]
    hints = {p.name: p.annotation for p in inspect.signature(function).parameters.values()}
    kinds = {key: str(get_args(kind)[:1]) for key, kind in hints.items() if get_args(kind)}
    return {key: kind for key, kind in kinds.items() if "bool" not in kind}


def _changes(pick: Random, name: str) -> list[list[str]]:
    """A flag and its value, and sometimes the flag again with another value."""
    known = flags(name)
    flag = pick.choice(sorted(known))
    if flag in PLAIN.get(name, ()):
        return [["", pick.choice(values(flag, known[flag]))]]
    again = pick.choice([1] * 11 + [2])
    some = values(flag, known[flag])
    return [[f"--{flag.replace('_', '-')}", pick.choice(some)] for _ in range(again)]


def cases(pick: Random) -> dict[str, Any]:
    """A command, changed values, and what stands after them."""
    name = pick.choice(COMMANDS)
    count = pick.choice([1, 1, 1, 2, 2, 3])
    changes = [change for _ in range(count) for change in _changes(pick, name)]
    extra = pick.choice(_EXTRA) if pick.random() < 0.1 else []
    return {"command": name, "changes": changes, "extra": extra}


def words(case: dict[str, Any]) -> list[str]:
    """The command line of a case."""
    name, base = case["command"], dict(BASE.get(case["command"], {"folder": "run"}))
    given = []
    for flag, value in case["changes"]:
        base.pop(flag.strip("-").replace("-", "_"), None)
        if not flag:
            for plain in PLAIN[name]:
                base.pop(plain, None)
        given += [flag, value] if flag else [value]
    return [*arguments(name, base), *given, *case["extra"]]


def run(case: dict[str, Any], inputs: Path) -> Verdict:
    """The verdict on a case; what a run that ended well left behind must be whole."""
    link(inputs)
    done = command(*words(case))
    verdict = done.verdict
    if verdict.end == "worked" and case["command"] in BASE:
        missing = not_whole(case["command"]) if "--out" not in words(case)[-4:] else ""
        help_only = any(word == "--help" for word in words(case))
        if missing and not help_only:
            return Verdict("nothing made", f"{missing}\n{done.text}")
    return verdict


def not_whole(name: str, folder: Path = Path("run")) -> str:
    """What is missing or wrong in what a command left; an empty text if nothing is."""
    from safetensors.torch import load_file

    if name == "inspect":
        return ""
    if name == "generate":
        return "" if any(folder.glob("*.png")) else "no picture"
    if not folder.is_dir():
        return ""  # --out named another
    try:
        result = json.loads((folder / "result.json").read_text("utf-8"), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        return f"result.json: {error}"
    artefact = folder / result["artefact"]
    files = [artefact] if artefact.is_file() else sorted(artefact.rglob("*.safetensors"))
    if not files:
        return f"no artefact {artefact}"
    for file in files:
        for key, tensor in load_file(file).items():
            if not math.isfinite(tensor.double().sum().item()):
                return f"{file}: {key} is not finite"
    return ""


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no JSON")
