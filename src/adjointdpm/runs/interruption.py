"""Stopping a long loop between two iterations, and not in the middle of one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM arrived; what was done until then is saved."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request to stop; the second one acts as usual.

    Yields:
        A function that says whether a signal has arrived. Outside the main thread, which alone may
        handle signals, it always returns False.

    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = False
    former: dict[int, Any] = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)
    }

    def request(number: int, frame: object) -> None:
        # It stays in place: a signal that arrives within a user's function must not look as if
        # that had changed the handler.
        nonlocal requested
        if not requested:
            requested = True
        elif callable(former[number]):
            former[number](number, frame)
        elif former[number] != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in former:
        signal.signal(number, request)
    try:
        yield lambda: requested
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
