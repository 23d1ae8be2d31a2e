"""Damaged run folders: each is resumed, reported or replayed.

The end must be that of the undamaged run, or a refusal.
"""

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

from fuzz.damage import damage, damages
from fuzz.inputs import INTERRUPTED, interrupted, link
from fuzz.verdict import Verdict, command

TITLE = "run folders"
NEEDS_RUNS = True
_WAYS = ["resume"] * 4 + ["report", "replay"]


def cases(pick: Random) -> dict[str, Any]:
    """A task, what is done with its run, a file by number, and what is done to the file."""
    way = pick.choice(_WAYS)
    name = "audit" if way == "replay" else pick.choice(sorted(INTERRUPTED))
    file = pick.randint(0, 40)
    return {"task": name, "way": way, "file": file, "damage": damages(pick)}


def run(case: dict[str, Any], inputs: Path) -> Verdict:
    """The verdict on a case."""
    link(inputs)
    name, way, run_folder = case["task"], case["way"], Path("run")
    whole = inputs / "runs" / f"{name}-whole"
    shutil.copytree(inputs / "runs" / f"{name}-part" if way == "resume" else whole, run_folder)
    noise = sorted(p.name for p in whole.glob("adversarial*.safetensors"))
    files = [p for p in sorted(run_folder.rglob("*")) if p.is_file() and p.name != "events"]
    files = [p for p in files if p.name in noise] if way == "replay" else files
    file = files[case["file"] % len(files)]
    what = damage(file, case["damage"])
    if way == "report":
        return command("report", "run").verdict
    if way == "replay":
        return _replay(whole / noise[0], file, what)
    done = command(*interrupted(name), "--resume")
    if done.code == 0 and (why := difference(run_folder, whole)):
        return Verdict("different", f"{file}, {what}: {why}\n{done.text}")
    return done.verdict


def _replay(whole: Path, damaged: Path, what: str) -> Verdict:
    """The verdict on the pictures of a damaged noise file, drawn again."""
    found, wanted = (
        command("audit", "--replay", file, "--model", "model", "--victim", "victim.py:build")
        for file in (damaged, whole)
    )
    if wanted.code != 0:
        return Verdict("crash", f"the undamaged file is refused: {wanted.text}")
    if found.code == 0 and found.text != wanted.text:
        return Verdict("different", f"{damaged}, {what}: {found.text}, not {wanted.text}")
    return found.verdict


def difference(found: Path, wanted: Path) -> str:
    """How one finished run differs from another; an empty text if it does not."""
    from safetensors.torch import load_file

    for file in sorted(wanted.rglob("*.safetensors")):
        other = found / file.relative_to(wanted)
        if "checkpoint" in file.parts:
            continue
        if not other.is_file():
            return f"{other} is missing"
        one, two = load_file(file), load_file(other)
        if one.keys() != two.keys() or any(not one[k].equal(two[k]) for k in one):
            return f"{other} holds other tensors"
    results = [json.loads((f / "result.json").read_text("utf-8")) for f in (found, wanted)]
    for key in ("metric", "held_out", "success", "seed", "config"):
        if results[0].get(key) != results[1].get(key):
            return f"result.json: {key} is {results[0].get(key)}, not {results[1].get(key)}"
    return _other_history(found, wanted)


def _other_history(found: Path, wanted: Path) -> str:
    """Where the measured values of a run's records differ from those of another."""
    if not (wanted / "history.jsonl").is_file():
        return ""
    one, two = (
        [json.loads(line) for line in (folder / "history.jsonl").read_text("utf-8").splitlines()]
        for folder in (found, wanted)
    )
    keys = ("iteration", "training", "validation")
    first, second = ([{key: r.get(key) for key in keys} for r in rows] for rows in (one, two))
    if first == second:
        return ""
    at = next(
        (
            i
            for i, pair in enumerate(zip(first, second, strict=False))
            if len(set(map(str, pair))) > 1
        ),
        min(len(first), len(second)),
    )
    return f"history.jsonl differs from record {at} on ({len(first)} and {len(second)} records)"
