"""The help of a setting: the first sentence of its entry under `Args` in a docstring."""

import inspect
import re


def argument_help(cls: type, name: str) -> str:
    """The first sentence of a field's entry under `Args`, in the nearest class that has one.

    Raises:
        LookupError: no class has one.

    """
    for base in cls.__mro__:
        text = inspect.cleandoc(base.__doc__ or "")
        found = re.search(rf"^    {name}: (.+(?:\n {{8}}.+)*)", text, re.MULTILINE)
        if found:
            sentence = re.split(r"(?<!\bal)\.\s", found[1])[0]
            words = " ".join(sentence.split()).rstrip(".")
            return f"{words[0].upper()}{words[1:]}{'' if words[-1] == '…' else '.'}"
    raise LookupError(f"{cls.__name__}.{name} has no entry under Args")
