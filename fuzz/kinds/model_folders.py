"""Damaged model folders: a picture that is drawn must be drawn twice alike, and be one."""

import shutil
from pathlib import Path
from random import Random
from typing import Any

from fuzz.damage import damage, damages
from fuzz.inputs import link
from fuzz.verdict import Verdict, command

TITLE = "model folders"
_TENSORS = ["none"] * 4 + ["left out", "nan", "infinite", "added", "shape", "zero", "dtype"]


def cases(pick: Random) -> dict[str, Any]:
    """A file by number, and what is done to it or to one of its tensors."""
    found = {"file": pick.randint(0, 40), "damage": damages(pick)}
    tensor = pick.choice(_TENSORS)
    return found | {"tensor": tensor, "number": pick.randint(0, 200)}


def run(case: dict[str, Any], inputs: Path) -> Verdict:
    """The verdict on a case."""
    link(inputs)
    Path("model").unlink()
    shutil.copytree(inputs / "model", "model")
    weights = sorted(Path("model").rglob("*.safetensors"))
    if case["tensor"] == "none":
        files = [p for p in sorted(Path("model").rglob("*")) if p.is_file()]
        file = files[case["file"] % len(files)]
        what = damage(file, case["damage"])
    else:
        file = weights[case["file"] % len(weights)]
        what = _change(file, case["tensor"], case["number"])
    runs = [_draw(f"out{i}") for i in range(2)]
    if runs[0].end != "worked":
        return runs[0]
    pictures = [next(Path(f"out{i}").glob("*.png")).read_bytes() for i in range(2)]
    if runs[1].end != "worked" or pictures[0] != pictures[1]:
        return Verdict("different", f"{file}, {what}: two pictures of one model differ")
    if case["tensor"] in ("left out", "nan", "infinite", "shape"):
        return Verdict("different", f"{file}, {what}: a picture was drawn")
    return runs[0]


def _draw(out: str) -> Verdict:
    words = ("--model", "model", "--steps", 2, "--batch", 1, "--device", "cpu", "--out", out)
    return command("generate", "red fox", *words).verdict


def _change(file: Path, how: str, number: int) -> str:
    """Change a tensor of a file of weights."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = sorted(tensors)[number % len(tensors)]
    tensor = tensors[name].clone()
    if how == "left out":
        del tensors[name]
    elif how == "added":
        tensors[f"{name}.more"] = tensor
    elif how == "shape":
        tensors[name] = torch.cat([tensor, tensor])
    elif how == "dtype":
        tensors[name] = tensor.half()
    elif how == "zero":
        tensors[name] = torch.zeros_like(tensor)
    else:
        tensor.view(-1)[0] = float("nan") if how == "nan" else float("inf")
        tensors[name] = tensor
    save_file(tensors, file, metadata={"format": "pt"})
    return f"{name} {how}"
