"""Which devices can be used here."""

import torch

from adjointdpm.errors import UnknownNameError


def usable_device(what: str, name: object) -> torch.device:
    """The device of a name, tried out.

    Args:
        what: stands before the name in messages: "--device ".
        name: what the user gave.

    Raises:
        UnknownNameError: there is no such device, or it computes nothing.

    """
    try:
        device = torch.device(name)  # pyright: ignore[reportArgumentType]
        computed = (torch.ones(1, device=device) + 1).item()
    except Exception as error:  # each kind of device fails in its own way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UnknownNameError(f"{what}{name!r} cannot be used here: {reason}") from error
    if computed != 2:
        raise UnknownNameError(f"{what}{name!r} cannot be used here: 1 + 1 is {computed} there")
    return device
