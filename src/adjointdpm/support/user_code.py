"""Functions from a user's own Python file, named as `file.py:function`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from adjointdpm.errors import AdjointDPMError


def load_function(
    path: Path, function: str, kind: str, error: type[AdjointDPMError]
) -> Callable[..., Any]:
    """Run the file and return its function.

    Args:
        path: the Python file.
        function: the name of a callable in it.
        kind: what the function is for, as messages call it: "metric", "network".
        error: the class of the exceptions to raise.

    Raises:
        error: the file is missing, fails when run, or has no such function; the message lists the
            functions it has.

    """
    if not path.is_file():
        raise error(f"{kind} file {path} does not exist")
    if not function:
        raise error(f"{kind} {path}: name the function too, as in {path}:function")
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        # Not imported: Python would cache it beside the user's file, and take the cache for a file
        # that was changed within the same second.
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except Exception as failure:
        raise error(f"{kind} file {path} failed: {type(failure).__name__}: {failure}") from failure
    found = vars(module).get(function)
    if not callable(found):
        names = [
            n
            for n, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == path.stem
        ]
        raise error(
            f"{kind} file {path} has no function {function!r}; it has {', '.join(names) or 'none'}"
        )
    return found
