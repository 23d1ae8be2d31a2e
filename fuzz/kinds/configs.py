"""Files for --config: values as YAML writes them, and what the same flags would have said."""

from pathlib import Path
from random import Random
from typing import Any

import yaml

from fuzz.inputs import BASE, arguments, link
from fuzz.kinds.command_lines import flags
from fuzz.texts import values
from fuzz.verdict import Verdict, command

TITLE = "configuration files"
# As they stand in the file.
_SCALARS = ["yes", "no", "on", "off", "~", "null", "010", "0o10", "0x10", "1e3", "1e-3", "1_000"]
_SCALARS += ["12:30:45", "2026-01-01", "1.", ".5", ".inf", ".nan", "-1", "0", "2", "0.5", "true"]
_SCALARS += [
    "'010'",
    '"yes"',
    "{}",
    "[]",
    "{a: 1}",
    "[1, 2]",
    "[[1]]",
    "!!binary aGk=",
    "!!set {a}",
]
_SCALARS += [
    "!!python/object:os.system {}",
    "!x y",
    "&a 2",
    "*a",
    "|\n  a\n  b",
    '"\\ud800"',
    "=",
    "<<",
]
_SCALARS += ['"\\0"', '"\\x1b[31m"', "Yes", "NULL", "1" * 400, str(10**30), "?", "- 1", "N", "y"]
_WHOLE = [
    b"",
    b"[]",
    b"text",
    b"{",
    b"a: b: c",
    b"\xff\xfe",
    b"\x00",
    b"- 1",
    b"? x",
    b"a: &a [*a]",
]
_WHOLE += [
    b"task: audit",
    b"task: 1",
    b"1: 2",
    b"{[1]: 2}",
    b"config: x",
    b"help: 1",
    b"--- 1\n--- 2",
]
_WHOLE += [
    b"null: 1",
    b"? {a: 1}\n: 2",
    b"<<: {steps: 1}",
    b"<<: 3",
    b"steps: 1\nSteps: 2",
    b"%YAML 9",
]
_WHOLE += [b"a0: &a0 [x,x,x,x,x,x,x,x]\n" + b"".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 8)}]\n".encode() for i in range(1, 12)
)]  # fmt: skip
_WHOLE += [
    b"prompts:\n" + b"- a fox\n" * 3 + b"- an owl\n",
    b"[" * 100000,
    b"steps: " + b"9" * 10**6,
]
_ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"]


def cases(pick: Random) -> dict[str, Any]:
    """Entries that are added to, or doubled in, the file of a short run; or a whole other file."""
    name = pick.choice(["embed", "align", "guide", "audit"])
    if pick.choice([False, False, False, True]):
        return {"command": name, "whole": pick.choice(_WHOLE).hex()}
    flag = pick.choice(sorted(set(flags(name)) - {"config", "out", "replay"}))
    plain = [v for v in values(flag, flags(name)[flag]) if v.isprintable() and len(v) < 400]
    text = pick.choice([*_SCALARS, *map(_quoted, plain)])
    doubled = pick.choice([False, False, False, True])
    key = pick.choice([flag, flag, flag, flag.replace("_", "-"), flag.upper()])
    encoding = pick.choice(_ENCODINGS)
    return {"command": name, "key": key, "text": text, "doubled": doubled, "encoding": encoding}


def _quoted(value: str) -> str:
    return yaml.safe_dump(value, allow_unicode=True).removesuffix("\n...\n").strip()


def run(case: dict[str, Any], inputs: Path) -> Verdict:
    """The verdict on a case.

    A value that is used must be the one that the flag would have made of the same text.
    """
    link(inputs)
    name, file = case["command"], Path("given.yaml")
    if "whole" in case:
        file.write_bytes(bytes.fromhex(case["whole"]))
        return command(*arguments(name, BASE[name]), "--config", file).verdict
    key, text = case["key"], case["text"]
    entries = {k: _quoted(v) for k, v in BASE[name].items() if k not in ("out", key)}
    lines = [f"{k}: {v}" for k, v in entries.items()] + [f"{key}: {text}"] * (1 + case["doubled"])
    file.write_bytes("\n".join([*lines, ""]).encode(case["encoding"], "replace"))
    verdict = command(name, "--config", file, "--out", "run").verdict
    if verdict.end != "worked":
        return verdict
    if case["doubled"]:
        return Verdict("different", f"{key} stands there twice, and the run began")
    return _as_a_flag(name, key.replace("-", "_").lower(), text) or verdict


def _as_a_flag(name: str, key: str, text: str) -> Verdict | None:
    """A verdict if the flag makes something else of a plain text."""
    if text[:1] in "'\"[{!&*|?-=<" or text.lower() in ("~", "null", "", ".inf", ".nan"):
        return None
    values = {k: v for k, v in BASE[name].items() if k != key} | {"out": "again", key: text}
    done = command(*arguments(name, values))
    if done.code != 0:
        return Verdict("different", f"{key}: {text} is used, and as a flag refused: {done.text}")
    found, wanted = (yaml.safe_load(Path(f, "config.yaml").read_text()) for f in ("run", "again"))
    if found != wanted:
        return Verdict("different", f"{key}: {text} is {found.get(key)!r}, not {wanted.get(key)!r}")
    return None
