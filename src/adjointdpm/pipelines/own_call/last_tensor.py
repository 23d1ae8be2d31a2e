"""What a pipeline makes before its last clamp and before numpy or PIL, with its graph."""

from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

_RANGES = ((0, 1), (-1, 1))
_MOST = 32  # samples of one batch that are noted one by one


class LastTensor(TorchFunctionMode):
    """Notes what is clamped to [0, 1] or [−1, 1], or turned into numpy, within its block."""

    def __init__(self) -> None:
        super().__init__()
        self._noted: deque[Tensor] = deque(maxlen=_MOST)  # in the same way, and of one shape
        self._low: int | None = None  # the lower bound of clamped ones; None for numpy

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.numpy and args[0].is_floating_point() and args[0].ndim >= 2:
            if not self._was_clamped(args[0]):
                picture = _is_picture(args[0])
                self._note(args[0].movedim(-1, -3) if picture else args[0], None)
            return func(args[0].detach(), *args[1:], **kwargs)
        if func in (Tensor.clamp, torch.clamp, Tensor.clip, torch.clip) and args[0].ndim >= 3:
            bounds = (*args[1:], *(kwargs[name] for name in ("min", "max") if name in kwargs))
            if bounds in _RANGES:
                self._note(args[0], int(bounds[0]))
        return func(*args, **kwargs)

    def _note(self, tensor: Tensor, low: int | None) -> None:
        if self._noted and (low != self._low or tensor.shape != self._noted[-1].shape):
            self._noted.clear()
        self._noted.append(tensor)
        self._low = low

    def _was_clamped(self, tensor: Tensor) -> bool:
        """Whether a tensor is what was clamped last, in another layout."""
        if self._low is None or not self._noted or self._noted[-1].numel() != tensor.numel():
            return False
        total = self._noted[-1].detach().clamp(self._low, 1).sum()
        return bool(torch.isclose(total, tensor.detach().sum()))

    def of(self, output: Any) -> Tensor | None:
        """The unclamped counterpart of what a pipeline returned; None if it made no tensor."""
        returned = _tensor(output)
        if not self._noted:
            return returned
        if returned is None:
            return self._noted[-1]
        if self._clamps_to(self._noted[-1], returned):
            return self._noted[-1]
        found = self._videos(len(returned)) if returned.ndim == 5 else self._noted[-1]
        if _lost(found, returned) or _rounds_to(found, returned):
            return found
        return returned

    def _clamps_to(self, noted: Tensor, returned: Tensor) -> bool:
        if self._low is None or noted.shape != returned.shape:
            return False
        return torch.equal(noted.detach().clamp(self._low, 1), returned.detach())

    def _videos(self, count: int) -> Tensor:
        """The last `count` noted ones as a batch of videos, channels before height."""
        videos = list(self._noted)[-count:]
        if len(videos) < count or videos[0].ndim != 4:
            return videos[-1]
        return torch.stack(videos)


def _lost(found: Tensor, returned: Tensor) -> bool:
    """Whether a graph ended between what was noted and what was returned."""
    return found.requires_grad and not returned.requires_grad


def _rounds_to(found: Tensor, returned: Tensor) -> bool:
    """Whether what was returned is `found` after it was turned into bytes and back."""
    if found.shape != returned.shape or found.requires_grad:
        return False
    return bool((found.clamp(0, 1) - returned).abs().max() < 1 / 127)


def _is_picture(tensor: Tensor) -> bool:
    """Whether a tensor has the layout of pictures in numpy, channels last (6: colours, depth)."""
    return tensor.is_floating_point() and tensor.ndim >= 4 and tensor.shape[-1] in (1, 3, 4, 6)


def _tensor(output: Any) -> Tensor | None:
    """The samples among what a pipeline returns: the first element, stacked if it is a list."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    for tree in (first, output):
        found = [x for x in tree_flatten(tree)[0] if isinstance(x, Tensor)]
        found = [x for x in found if x.is_floating_point()]
        if len(found) > 1 and len({x.shape for x in found}) == 1 and tree is first:
            return torch.stack(found)
        if found:
            return found[0]
    return None
