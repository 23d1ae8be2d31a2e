"""Shallow copies of networks."""

from typing import Any, TypeVar

T = TypeVar("T")


def shallow_copy(network: T) -> T:
    """A copy of a module that shares all weights and parts.

    `copy.copy` asks the class for a new object, and that of a sharded module (FSDP2) makes a whole
    network then, with the sizes that its class has by default.
    """
    made: Any = object.__new__(type(network))
    vars(made).update(vars(network))
    return made
