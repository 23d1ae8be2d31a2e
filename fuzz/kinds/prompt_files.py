"""Files of prompts in every encoding: the prompts that were meant are read, or none."""

from pathlib import Path
from random import Random
from typing import Any

from fuzz.damage import damage, damages
from fuzz.verdict import Verdict

TITLE = "prompt files"
_LINES = ["a fox", "# note", "", "  an owl  ", "käse", "日本", "a" * 500, "\ta", "red, green", "#x"]
_ODD = ["\x00", "a\x00b", "\x1b[31m", "\x0c", "a\x0bb", "a\x85b", "a\u2028b", "\u200b", "\ufeff"]
_ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7"]
_ENDS = ["\n", "\r\n", "\r"]


def cases(pick: Random) -> dict[str, Any]:
    """Lines, their encoding and ends, and sometimes a damage."""
    return {
        "lines": pick.choices([*_LINES * 2, *_ODD], k=pick.randint(0, 6)),
        "encoding": pick.choice(_ENCODINGS),
        "end": pick.choice(_ENDS),
        "damage": pick.choice([None, damages(pick)]),
    }


def run(case: dict[str, Any], inputs: Path) -> Verdict:
    """The verdict on a case."""
    from adjointdpm.cli.prompts import PromptSource
    from adjointdpm.errors import AdjointDPMError

    file = Path("prompts.txt")
    file.write_bytes(case["end"].join([*case["lines"], ""]).encode(case["encoding"], "replace"))
    if case["damage"] is not None:
        damage(file, case["damage"])
    try:
        found = PromptSource(str(file)).read()
    except AdjointDPMError as error:
        return Verdict("refused", str(error))
    if not found or not all(isinstance(prompt, str) and prompt.strip() for prompt in found):
        return Verdict("different", f"{found!r} are no prompts")
    if any(c in prompt for prompt in found for c in "\x00\ufeff\n\r\ufffd"):
        return Verdict("different", f"{found!r} hold what is no text")
    odd = any(line in _ODD for line in case["lines"])
    if case["damage"] is not None or odd or case["encoding"] == "utf-7":
        return Verdict("worked")
    wanted = [line.strip() for line in case["lines"] if line.strip() and line.strip()[0] != "#"]
    if found != wanted:
        return Verdict("different", f"{found!r}, not {wanted!r}, in {case['encoding']}")
    return Verdict("worked")
