"""What can happen to a file, and what somebody may have written into it."""

import json
import os
import struct
from pathlib import Path
from random import Random
from typing import Any

import yaml

VALUES: list[Any] = [
    None,
    -1,
    0,
    1,
    1e30,
    10**30,
    "",
    "x",
    [],
    {},
    True,
    [[]],
    "../../x",
    "/etc/passwd",
]
VALUES += [
    float("nan"),
    float("inf"),
    10**9,
    "\x1b[31m",
    "\ud800",
    "javascript:x",
    "a" * 3000,
    [None],
]
_WHOLE = ["delete", "empty", "fifo", "loop", "device", "folder", "text", "binary", "unreadable"]
_PLACED = ["flip", "cut", "zeros", "append", "remove", "double", "swap"]
_TYPES = ["F64", "F16", "I64", "BOOL", "U8", "X", "BF16"]


def damages(pick: Random) -> dict[str, Any]:
    """What is done, at which part of the file, and with which value."""
    kind = pick.choice([*_WHOLE[:7], *_PLACED, *["value"] * 8, *["header"] * 4])
    place = pick.randint(0, 9999) / 10000
    value = pick.randint(0, 9999)
    return {"kind": kind, "place": place, "value": value}


def damage(file: Path, how: dict[str, Any]) -> str:
    """Damage a file, and say what was done."""
    kind, place, value = how["kind"], how["place"], how["value"]
    if kind in _WHOLE:
        return _whole(file, kind)
    if kind in _PLACED:
        return _placed(file, kind, place, value)
    if file.suffix == ".safetensors":
        return _safetensors(file, kind, place, value)
    if file.suffix in (".json", ".yaml", ".jsonl"):
        return _structured(file, place, value)
    return _placed(file, "flip", place, value)


def _whole(file: Path, kind: str) -> str:
    file.unlink()
    if kind == "empty":
        file.write_bytes(b"")
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind in ("loop", "device"):
        file.symlink_to(file if kind == "loop" else Path("/dev/zero"))
    elif kind == "folder":
        file.mkdir()
    elif kind in ("text", "binary"):
        file.write_bytes(b"text\n" if kind == "text" else bytes(range(256)))
    return kind


def _placed(file: Path, kind: str, place: float, value: int) -> str:
    content = bytearray(file.read_bytes() or b"x")
    at = int(place * len(content))
    if kind == "flip":
        content[at] ^= 1 << value % 8
    elif kind == "cut":
        del content[at:]
    elif kind == "zeros":
        content[at : at + 16] = bytes(len(content[at : at + 16]))
    elif kind == "append":
        content += b"more\n"
    else:
        lines = bytes(content).splitlines(keepends=True)
        number = int(place * len(lines))
        chosen = lines[number]
        if kind == "remove":
            del lines[number]
        elif kind == "double":
            lines.insert(number, chosen)
        else:
            lines[number], lines[-1] = lines[-1], chosen
        content = bytearray(b"".join(lines))
    file.write_bytes(content)
    return f"{kind} at {at}"


def _structured(file: Path, place: float, value: int) -> str:
    """Change one value of a JSON, JSON lines or YAML file, or leave one out."""
    text = file.read_text("utf-8")
    if file.suffix == ".jsonl":
        lines = text.splitlines() or ["{}"]
        number = int(place * len(lines))
        entry = json.loads(lines[number])
        what = change(entry, place * 7 % 1, value)
        lines[number] = json.dumps(entry)
        file.write_text("\n".join(lines) + "\n")
        return f"line {number}: {what}"
    content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    what = change(content, place, value)
    new = json.dumps(content) if file.suffix == ".json" else yaml.safe_dump(content)
    file.write_text(new, "utf-8")
    return what


def _safetensors(file: Path, kind: str, place: float, value: int) -> str:
    """Change the facts of a file of tensors, or the header that says where they lie."""
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header, body = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    metadata = header.get("__metadata__", {})
    facts = [key for key in metadata if metadata[key][:1] in "{["]
    if kind == "value" and facts:
        key = facts[int(place * len(facts))]
        content = json.loads(metadata[key])
        what = change(content, place * 7 % 1, value)
        metadata[key] = json.dumps(content)
    elif value % 5 == 0:
        file.write_bytes(struct.pack("<Q", 2 ** (value % 63)) + raw[8:])
        return "length of the header"
    else:
        names = [key for key in header if key != "__metadata__"] or ["__metadata__"]
        name = names[int(place * len(names))]
        what = f"{name}: {_entry(header, name, value)}"
    new = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(new)) + new + body)
    return what


def _entry(header: dict[str, Any], name: str, value: int) -> str:
    """Change what the header says of a tensor."""
    entry, kind = header[name], value % 4
    if kind == 0 or "shape" not in entry:
        header[f"{name}x"] = header.pop(name)
        return "renamed"
    if kind == 1:
        entry["shape"] = [[10**9], [-1], [], ["x"], [1, 1], [2**62, 4]][value // 4 % 6]
    elif kind == 2:
        entry["dtype"] = _TYPES[value // 4 % len(_TYPES)]
    else:
        entry["data_offsets"] = [[0, 0], [0, 10**15], [8, 0], [-1, 4], ["a"]][value // 4 % 5]
    return json.dumps(entry)


def change(content: Any, place: float, value: int) -> str:
    """Replace one entry somewhere in nested values, or leave it out; says which."""
    paths = list(_paths(content))
    if not paths:
        return "nothing to change"
    holder, key = paths[int(place * len(paths))]
    new = VALUES[value % len(VALUES)]
    if value % 7 == 0 and isinstance(holder, dict):
        del holder[key]
        return f"{key} left out"
    was, holder[key] = holder[key], new
    return f"{key} is {new!r}, was {str(was)[:80]!r}"


def _paths(content: Any) -> Any:
    entries = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, entry in entries:
        yield content, key
        yield from _paths(entry)
