"""What of a diffusers scheduler's configuration counts."""

import inspect
from typing import Any


def option(scheduler: Any, name: str) -> Any:
    """A configuration value that the scheduler's class uses, else None: `from_config` also carries
    over what only other classes read.
    """
    used = any(
        name in inspect.signature(kind.__init__).parameters for kind in type(scheduler).__mro__
    )
    return getattr(scheduler, "config", {}).get(name) if used else None
