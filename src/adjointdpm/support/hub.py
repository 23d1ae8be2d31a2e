"""Which texts may be looked up on the Hugging Face hub, and whether it answers."""

import os
import re
import threading

_PATIENCE = 5.0  # seconds
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(name: str) -> bool:
    """Whether a text can only mean `owner/model` on the hub, and not a mistyped path.

    It is taken for a path if what stands before the slash exists in the working directory.
    """
    return _HUB_ID.fullmatch(name) is not None and not os.path.exists(name.partition("/")[0])


def is_reachable() -> bool:
    """Whether the hub answers; this is known within seconds.

    The hub's own client would try again and again, each time for as long, and a name server that
    does not answer is not even bounded by its limit.
    """
    from huggingface_hub import constants, get_session

    answered = threading.Event()

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
        except Exception:  # of a dozen kinds, offline mode among them
            done.set()
            return
        answered.set()
        done.set()

    done = threading.Event()
    threading.Thread(target=ask, daemon=True).start()
    done.wait(_PATIENCE + 1)
    return answered.is_set()


def is_unreachable(error: BaseException) -> bool:
    """Whether an error of the hub's client was caused by the network.

    The error itself may say something else, since the client then looks in its cache.
    """
    seen: set[int] = set()
    reason: BaseException | None = error
    while reason is not None and id(reason) not in seen:
        seen.add(id(reason))
        if any(
            word in type(reason).__name__
            for word in ("Connect", "LocalEntryNotFound", "OfflineMode", "Timeout")
        ):
            return True
        reason = reason.__cause__ or reason.__context__
    return False


def why_no_hub_id(name: str) -> str:
    """Why a text that is no path was not looked up on the hub; for messages."""
    if _HUB_ID.fullmatch(name):
        first = name.partition("/")[0]
        return f"since {first!r} exists here it was taken for a path, and not looked up on the hub"
    return "as a hub id it would have to be 'owner/model'"
