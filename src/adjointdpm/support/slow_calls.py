"""Say which call takes long, while it runs: a program that hangs must not be silent about where."""

import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from adjointdpm.errors import AdjointDPMWarning

#: Seconds after which a call is said to take long, and how often that is looked at.
PATIENCE, _LOOK_EVERY = 60.0, 1.0


@dataclass
class _Call:
    """A call that is running."""

    what: str
    advice: str
    thread: int = field(default_factory=threading.get_ident)
    since: float = field(default_factory=time.monotonic)
    told: bool = False


_calls: list[_Call] = []
_watcher: list[threading.Thread] = []


@contextmanager
def said_when_slow(what: str, advice: str = "") -> Iterator[None]:
    """Warn, once, if the block takes longer than `PATIENCE` seconds.

    Args:
        what: what runs, as the warning calls it.
        advice: added to the warning.

    Warns:
        AdjointDPMWarning: the block takes long; the message says in which line it is.

    """
    call = _Call(what, advice)
    _calls.append(call)
    if not _watcher or not _watcher[0].is_alive():
        _watcher[:] = [threading.Thread(target=_watch, name="slow calls", daemon=True)]
        _watcher[0].start()
    try:
        yield
    finally:
        _calls.remove(call)


def _watch() -> None:
    while True:
        time.sleep(_LOOK_EVERY)
        for call in list(_calls):
            seconds = time.monotonic() - call.since
            if seconds > PATIENCE and not call.told:
                call.told = True
                _tell(call, seconds)


def _tell(call: _Call, seconds: float) -> None:
    frame = sys._current_frames().get(call.thread)
    where = f", at {frame.f_code.co_filename}, line {frame.f_lineno}" if frame else ""
    message = f"{call.what} has been running for {seconds:.0f} s{where}{call.advice}"
    try:
        warnings.warn(message, AdjointDPMWarning, stacklevel=2)
    except AdjointDPMWarning:  # where warnings are errors, nobody could catch it here
        print(message, file=sys.stderr)
