"""Code that the user brings: functions from a file, and what happens when they run.

All calls of a user's metric, victim or network pass `user_code`.
"""

import inspect
import linecache
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from adjointdpm.errors import AdjointDPMError, AdjointDPMWarning
from adjointdpm.support.process_state import kept_settings, own_random_numbers
from adjointdpm.support.slow_calls import said_when_slow

_PACKAGE = Path(__file__).parents[1]
_NOT_THE_USERS = tuple(
    str(Path(folder).resolve())
    for folder in (_PACKAGE, *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib")))
)
_MODELS = ("diffusers", "transformers")
# Files that functions were loaded from: by path, the name that messages call them by.
_loaded: dict[str, str] = {}


@contextmanager
def user_code(what: str, error: type[AdjointDPMError], *, on: str = "") -> Iterator[None]:
    """Run code of the user's: whatever goes wrong in the block is an error that says where.

    The settings of torch and of the process that it changes are set back, with a warning. Its
    random numbers are its own. A call that takes long is said to.

    Args:
        what: what runs, as messages call it, such as "metric score.py:score".
        error: the class of the exceptions to raise.
        on: what it was given, as in " on pictures (2, 3, 64, 64)".

    Raises:
        error: the block raised something else than an error of this library or
            KeyboardInterrupt, or wanted to end the program.

    """
    with ExitStack() as stack:
        stack.enter_context(kept_settings(what))
        stack.enter_context(own_random_numbers())
        stack.enter_context(said_when_slow(what, "; Ctrl-C ends it, a second one at once"))
        try:
            yield
        except (AdjointDPMError, KeyboardInterrupt, AdjointDPMWarning):
            raise
        except BaseException as failure:
            raise error(describe(f"{what} failed{on}", failure)) from failure


def describe(failed: str, failure: BaseException) -> str:
    """Put an exception into words: what it says, and the line of the user's code that raised it.

    Args:
        failed: what failed, as in "metric score.py:score failed".
        failure: what was raised.

    """
    place = place_of(failure)
    where = f" ({place})" if place else ""
    if isinstance(failure, SystemExit):
        return (
            f"{failed}: it called sys.exit({failure.code!r}){where}, which would end the program; "
            f"return, or raise an error"
        )
    says = " ".join(str(failure).split())
    return f"{failed}: {type(failure).__name__}{f': {says}' if says else ''}{where}"


def place_of(failure: BaseException, only: str | None = None) -> str | None:
    """The innermost line of the user's code that an exception came through.

    Args:
        failure: the exception.
        only: look for lines of this file only; None takes any that is neither this package's,
            Python's, nor an installed package's.

    """
    found, trace = None, failure.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == only or (only is None and _is_the_users(code.co_filename)):
            found = code, trace.tb_lineno
        trace = trace.tb_next
    if found is None:
        return None
    code, number = found
    line = linecache.getline(code.co_filename, number).strip()
    function = "" if code.co_name.startswith("<") else f", in {code.co_name}"
    return f"{code.co_filename}, line {number}{function}{f': {line}' if line else ''}"


def blamed_file(failure: BaseException) -> str | None:
    """Describe an exception that came through a file of the user's; None if it did not.

    That is how a mistake is found that shows outside of `user_code`, as in a backward pass.
    """
    for path, name in _loaded.items():
        if place_of(failure, only=path):
            return describe(f"{name} failed", failure)
    return None


def failed_in_model(failure: BaseException) -> str | None:
    """Describe an exception that a model raised, its networks or its tokenizers; None of others.

    Parts whose files do not fit together may show that only when they run.
    """
    files = [frame.filename for frame in traceback.extract_tb(failure.__traceback__)]
    inside = [i for i, name in enumerate(files) if _package_of(name) in _MODELS]
    if not inside or any(str(_PACKAGE) in name for name in files[inside[-1] :]):
        return None
    last = Path(files[inside[-1]])
    return (
        f"{describe('the model failed', failure)}, in {_package_of(str(last))}'s {last.name}; its "
        "files (config.json, tokenizer, weights) may not fit together: save or download it again"
    )


def _package_of(filename: str) -> str:
    """The installed package that a file is of; "" of others."""
    path, site = Path(filename), Path(sysconfig.get_path("purelib"))
    return path.relative_to(site).parts[0] if path.is_relative_to(site) else ""


def file_and_function(text: str) -> tuple[Path, str] | None:
    """What `file.py:function` names; None of a text that names no Python file.

    The last colon counts: paths may have colons too, and those of Windows do. Without a function
    its name is "".
    """
    if text.endswith(".py"):
        return Path(text), ""
    path, _, function = text.rpartition(":")
    return (Path(path), function) if path.endswith(".py") else None


def load_function(
    path: Path, function: str, kind: str, error: type[AdjointDPMError]
) -> Callable[..., Any]:
    """Import the file as a module of its own name, and return its function.

    The file is run anew each time: nothing is taken from a cache, and nothing is written beside it.
    It may import other files of its folder.

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
        raise error(f"{kind} file {path} does not exist, or is no file")
    if not function:
        raise error(f"{kind} {path}: name the function too, as in {path}:function")
    module = _imported(path, f"{kind} file {path}", error)
    found = vars(module).get(function)
    if not callable(found):
        names = [
            n
            for n, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise error(
            f"{kind} file {path} has no function {function!r}; it has {', '.join(names) or 'none'}"
        )
    return found


def _imported(path: Path, what: str, error: type[AdjointDPMError]) -> ModuleType:
    """The file as a module, which is in `sys.modules` as dataclasses, pickle and others expect."""
    name = _module_name(path)
    module = ModuleType(name)
    module.__file__, module.__spec__ = str(path), ModuleSpec(name, None, origin=str(path))
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # the last one, so that no file of it hides an installed package
        sys.path.append(folder)
    former = sys.modules.get(name)
    sys.modules[name] = module
    linecache.checkcache(str(path))
    _loaded[str(path)] = what
    silent = _are_silenced()
    try:
        with user_code(what, error):
            exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
    except BaseException:
        if former is None:
            del sys.modules[name]
        else:
            sys.modules[name] = former
        raise
    finally:
        if _are_silenced() and not silent:  # it silenced all warnings, and so ours
            warnings.filterwarnings("default", category=AdjointDPMWarning)
    return module


def _module_name(path: Path) -> str:
    """The file's own name, unless that is another module's."""
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return name
    try:
        spec = None if known is not None or not name.isidentifier() else find_spec(name)
        own = spec is not None and Path(spec.origin or "").resolve() == path.resolve()
        taken = known is not None or not name.isidentifier() or (spec is not None and not own)
    except (ImportError, ValueError):
        taken = True
    return f"{name}_{sha256(str(path.resolve()).encode()).hexdigest()[:8]}" if taken else name


def _is_the_users(filename: str) -> bool:
    if filename in _loaded:
        return True
    if filename.startswith("<"):
        return False
    return not str(Path(filename).resolve()).startswith(_NOT_THE_USERS)


def _are_silenced() -> bool:
    """Whether warnings of this package are not shown."""
    for action, message, category, module, _ in warnings.filters:
        if message is None and module is None and issubclass(AdjointDPMWarning, category):
            return action == "ignore"
    return False
