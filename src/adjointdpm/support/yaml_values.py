"""YAML as people mean it: keys stand there once, and only what looks like a number is one.

PyYAML reads YAML 1.1, in which `yes` and `no` are truth values, `010` is eight and `12:30:45` is a
number. Here plain scalars are read as YAML 1.2 has them, or are left as they are written.
"""

import re
from typing import Any

import yaml

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")
_PREFIX = "tag:yaml.org,2002:"
_LONGEST = 400  # digits of a number; Python itself reads no more than 4300


class _Loader(yaml.SafeLoader):
    """A loader that resolves scalars as YAML 1.2 does."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - as PyYAML declares it


for _tag, _pattern in (
    ("null", _NULL),
    ("bool", _BOOL),
    ("int", _INT),
    ("float", _FLOAT),
    ("float", _NAN),
):
    _Loader.add_implicit_resolver(f"{_PREFIX}{_tag}", re.compile(f"^(?:{_pattern.pattern})$"), None)


def read_entries(text: str) -> dict[str, yaml.Node]:
    """The entries of a mapping, as they are written; `value_of` and `text_of` read them.

    Raises:
        ValueError: no YAML, no mapping, or a key that stands there twice; the text says which.

    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except RecursionError as error:
        raise ValueError("its entries are nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("it must hold names and values, such as `steps: 50`")
    return _entries(node)


def is_null(node: yaml.Node) -> bool:
    """Whether a node is written as null."""
    return isinstance(node, yaml.ScalarNode) and node.tag == f"{_PREFIX}null"


def text_of(node: yaml.Node) -> str:
    """A scalar as it is written, without its quotes; infinity and NaN as Python reads them.

    Raises:
        ValueError: something else than a scalar, or a scalar with a tag.

    """
    if not isinstance(node, yaml.ScalarNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
        raise ValueError(f"must be one value, not {kind}")
    kinds = ("null", "bool", "int", "float", "str")
    if node.tag not in [_PREFIX + kind for kind in kinds]:
        raise ValueError(f"must be plain, without the tag {node.tag.removeprefix(_PREFIX)!r}")
    text: str = node.value
    if node.tag == f"{_PREFIX}float":
        text = re.sub(r"\.(?=inf|nan)", "", text.lower()) if not text[-1].isdigit() else text
    if any("\ud800" <= c <= "\udfff" or c == "\0" for c in text):
        raise ValueError("holds what is no text (a zero byte or half of a surrogate pair)")
    return text


def value_of(node: yaml.Node) -> Any:
    """A node as Python values.

    Raises:
        ValueError: a tag that is none of JSON's kinds, or a key that stands there twice.

    """
    if isinstance(node, yaml.MappingNode):
        return {key: value_of(entry) for key, entry in _entries(node).items()}
    if isinstance(node, yaml.SequenceNode):
        return [value_of(entry) for entry in node.value]
    text, kind = text_of(node), node.tag.removeprefix(_PREFIX)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind in ("int", "float") and len(text) <= _LONGEST:
        return int(text) if kind == "int" else float(text)
    return text


def read_value(text: str) -> Any:
    """One value as Python has it.

    Raises:
        ValueError: no YAML, or what `value_of` refuses.

    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return None if node is None else value_of(node)


def _entries(node: yaml.MappingNode) -> dict[str, yaml.Node]:
    found: dict[str, yaml.Node] = {}
    for key, entry in node.value:
        name = text_of(key)
        if name in found:
            line = key.start_mark.line + 1
            raise ValueError(f"{name!r} stands there twice, the second time in line {line}")
        found[name] = entry
    return found
