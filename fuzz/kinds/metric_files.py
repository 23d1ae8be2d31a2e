"""Metric files that misbehave: the run is that of the same metric well behaved, or an error."""

from pathlib import Path
from random import Random
from typing import Any

from fuzz.inputs import link, two_iterations
from fuzz.kinds.command_lines import not_whole
from fuzz.kinds.run_folders import difference
from fuzz.verdict import Verdict, command

TITLE = "metric files"
NEEDS_RUNS = True
#: Lines at the head of the file, and whether the scores are still those of the plain metric.
_HEADS = {
    "": True,
    "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\n"
    "class A:\n    x: int = 1\n": True,
    "print('hello')": True,
    "raise SystemExit(0)": False,
    "raise SystemExit": False,
    "raise KeyError('x')": False,
    "raise BaseException('x')": False,
    "import sys; sys.exit('bye')": False,
    "import nothing_of_this_name": False,
    "from . import x": False,
    "def": False,
    "\x00": False,
    "import os; os.chdir('/')": True,
    "torch.set_default_dtype(torch.float64)": True,
    "torch.set_grad_enabled(False)": True,
    "torch.manual_seed(7)": True,
    "import warnings; warnings.simplefilter('error')": True,
    "import logging; logging.basicConfig(level=0)": True,
    "import sys; sys.stdout = None": True,
    "import pickle; pickle.dumps(object)": True,
    "__name__ = 'x'": True,
    "import multiprocessing": True,
    "print('\\x1b[31mred')": True,
    "# -*- coding: latin-1 -*-\nX = '\xe9'": True,
}
#: What the function does at one of its calls before it returns, and whether scores stay.
_ACTS = {
    "pass": True,
    "raise ValueError('a problem')": False,
    "raise SystemExit(0)": False,
    "raise SystemExit(3)": False,
    "import sys; sys.exit('bye')": False,
    "raise StopIteration": False,
    "raise GeneratorExit": False,
    "raise KeyError": False,
    "raise BaseException('x')": False,
    "raise RecursionError": False,
    "raise MemoryError": False,
    "raise UnicodeDecodeError('utf-8', b'', 0, 1, 'x')": False,
    "raise ValueError('\\x1b[31m')": False,
    "raise ValueError('\\udcff')": False,
    "raise ExceptionGroup('x', [ValueError('y')])": False,
    "assert False": False,
    "images.nothing": False,
    "print('hello')": True,
    "print('\\x1b[2J')": True,
    "images.zero_()": False,
    "images.clamp_(0, 0.1)": False,
    "torch.set_grad_enabled(False)": False,
    "torch.set_default_dtype(torch.float64)": True,
    "torch.manual_seed(1)": True,
    "torch.use_deterministic_algorithms(True)": True,
    "import os; os.chdir('/')": True,
    "import warnings; warnings.warn('look')": True,
    "import warnings; warnings.simplefilter('error')": True,
    "return None": False,
    "return 0.5": False,
    "return (scores,)": False,
    "return [scores]": False,
    "return {'score': scores}": False,
    "return scores.detach()": False,
    "return scores.half()": False,
    "return scores.double()": False,
    "return scores * 1j": False,
    "return scores[:, None]": False,
    "return scores[:0]": False,
    "return scores.mean()": False,
    "return scores * float('nan')": False,
    "return scores / 0": False,
    "return scores * 1e38 * 10": False,
    "return scores * 0": False,
    "return scores.long()": False,
    "return torch.tensor(scores.tolist())": False,
    "return scores.numpy()": False,
    "return scores.to('meta')": False,
    "return scores.to_sparse()": False,
    "return 'x'": False,
    "yield scores": False,
}
_SIGNATURES = ["images", "images, prompts", "images, /", "*images", "images, *, prompts", "self"]
_SIGNATURES += ["images, prompts, more", "", "images, prompts=None", "**k", "images, more=1"]


def cases(pick: Random) -> dict[str, Any]:
    """A head, a signature, an act and the call at which it happens."""
    plain = pick.choice(["head", "act", "act", "act", "signature"])
    return {
        "command": pick.choice(["guide", "guide", "embed", "align"]),
        "head": pick.choice(sorted(_HEADS)) if plain == "head" else "",
        "act": pick.choice(sorted(_ACTS)) if plain == "act" else "pass",
        "call": pick.choice([1, 2, 3, 4, 5, 7, 10]),
        "signature": pick.choice(_SIGNATURES) if plain == "signature" else "images",
    }


def run(case: dict[str, Any], inputs: Path) -> Verdict:
    """The verdict on a case."""
    link(inputs)
    Path("metric.py").unlink()
    name, here = case["command"], Path.cwd()
    first = case["signature"].split(",")[0].strip("* ") or "images"
    body = [
        "global calls",
        "calls += 1",
        *([] if first == "images" else [f"images = {first}"]),
        "scores = images[:, 0].mean((1, 2))",
        f"if calls == {case['call']}:",
        f"    {case['act']}",
        "return scores",
    ]
    head = "import torch\n" if "__future__" not in case["head"] else ""
    text = f"{head}{case['head']}\nimport torch\ncalls = 0\ndef score({case['signature']}):\n"
    text += "".join(f"    {line}\n" for line in body)
    coding = "latin-1" if "coding: latin-1" in text else "utf-8"
    Path("metric.py").write_bytes(text.encode(coding))
    done = command(*two_iterations(name))
    verdict = done.verdict
    if verdict.end == "different" and "\\x1b" in text:
        verdict = Verdict("worked" if done.code == 0 else "refused")  # the user's own print
    if verdict.end != "worked":
        return verdict
    if missing := not_whole(name, here / "run"):
        return Verdict("nothing made", f"{missing}\n{done.text}")
    if _HEADS[case["head"]] and _ACTS[case["act"]]:
        return _as_well_behaved(name, here, inputs) or verdict
    return verdict


def _as_well_behaved(name: str, here: Path, inputs: Path) -> Verdict | None:
    """A verdict if the plain metric's run comes out otherwise."""
    found, why = here / "run", difference(here / "run", inputs / "runs" / f"{name}-plain")
    return Verdict("different", f"{found}: {why}") if why else None
