"""How much memory is left, and refusals of what would take more than that."""

import math
import resource
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from adjointdpm.errors import InvalidInputError

_LITTLE = 2**26  # bytes; asking how much is free takes longer than having them
_NO_MEMORY = "can't allocate memory"  # torch's words for the CPU
# Of a container: the limit and what is used, in version 2 and 1 of control groups.
_CONTAINER = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def free_bytes(device: torch.device | str = "cpu") -> int:
    """Bytes that this process can still take on a device, as far as anybody knows."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [psutil.virtual_memory().available + psutil.swap_memory().free]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        free.append(limit - psutil.Process().memory_info().vms)
    for most, used in _CONTAINER:
        with_limit = _number(most)
        if with_limit is not None:
            free.append(with_limit - (_number(used) or 0))
    return max(0, min(free))


def check_room(
    shape: Sequence[int],
    what: str,
    remedy: str,
    *,
    device: torch.device | str = "cpu",
    itemsize: int = 4,
    copies: int = 1,
) -> None:
    """Check that there is memory for tensors of a shape, before they are made.

    Args:
        shape: of one tensor.
        what: what messages call it, with the values that decide its size.
        remedy: what to do if there is not.
        device: where it will be.
        itemsize: bytes of an entry.
        copies: how many of them there will be at least.

    Raises:
        InvalidInputError: there is not.

    """
    needed = math.prod(shape) * itemsize * copies
    if needed < _LITTLE:
        return
    free = free_bytes(device)
    if needed > free:
        raise InvalidInputError(
            f"{what} takes at least {_gigabytes(needed)} of memory, and {_gigabytes(free)} are "
            f"free; {remedy}"
        )


def out_of_memory(error: BaseException) -> str | None:
    """What to say of an error if memory ran out; None of any other error."""
    text = (str(error).splitlines() or [""])[0]
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and _NO_MEMORY not in text:
        return None
    return (
        f"it ran out of memory ({text or type(error).__name__}); draw smaller pictures, or fewer "
        f"at once (--batch)"
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count < 10**300 else "endless GB"


def _number(path: str) -> int | None:
    """The number in a file of the system; None where there is none."""
    try:
        text = Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < 2**60 else None
