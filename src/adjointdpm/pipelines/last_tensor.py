"""What a pipeline makes before its last clamp and before numpy or PIL, with its graph."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

_RANGES = ((0, 1), (-1, 1))


class LastTensor(TorchFunctionMode):
    """Notes what is clamped to [0, 1] or [−1, 1], or turned into numpy, within its block."""

    def __init__(self) -> None:
        super().__init__()
        self._clamped: Tensor | None = None
        self._low = 0
        self._numpy: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.numpy and args[0].is_floating_point() and args[0].ndim >= 2:
            self._hand_over(args[0])
            return func(args[0].detach(), *args[1:], **kwargs)
        if func in (Tensor.clamp, torch.clamp, Tensor.clip, torch.clip) and args[0].ndim >= 3:
            bounds = (*args[1:], *(kwargs[name] for name in ("min", "max") if name in kwargs))
            if bounds in _RANGES:
                self._clamped, self._low = args[0], int(bounds[0])
        return func(*args, **kwargs)

    def _hand_over(self, tensor: Tensor) -> None:
        """Note what leaves as numpy, unless it is what was clamped before, in another layout."""
        clamped = self._clamped
        if clamped is not None and clamped.numel() == tensor.numel():
            total = clamped.detach().clamp(self._low, 1).sum()
            if torch.isclose(total, tensor.detach().sum()):
                return
        self._clamped = None
        self._numpy.append(tensor)

    def of(self, output: Any) -> Tensor | None:
        """The unclamped counterpart of what a pipeline returned; None if it made no tensor."""
        returned, clamped = _tensor(output), self._clamped
        if clamped is not None and returned is not None and self._clamps_to(clamped, returned):
            return clamped
        found = clamped if clamped is not None else self._left_as_numpy(returned)
        if found is None or returned is None or _lost(found, returned):
            return returned if found is None else found
        return found if _rounds_to(found, returned) else returned

    def _clamps_to(self, clamped: Tensor, returned: Tensor) -> bool:
        return clamped.shape == returned.shape and torch.equal(
            clamped.detach().clamp(self._low, 1), returned.detach()
        )

    def _left_as_numpy(self, returned: Tensor | None) -> Tensor | None:
        """The last tensor that left, or as many as make videos of the shape that was returned."""
        if not self._numpy:
            return None
        if returned is not None and returned.ndim == 5 and self._numpy[-1].ndim == 4:
            videos = self._numpy[-len(returned) :]
            if len({video.shape for video in videos}) == 1:
                stacked = torch.stack(videos).movedim(-1, -3)
                return stacked if stacked.shape == returned.shape else self._numpy[-1]
        return self._numpy[-1]


def _lost(found: Tensor, returned: Tensor) -> bool:
    """Whether a graph ended between what was noted and what was returned."""
    return found.requires_grad and not returned.requires_grad


def _rounds_to(found: Tensor, returned: Tensor) -> bool:
    """Whether what was returned is `found` after it was turned into bytes and back."""
    if found.shape != returned.shape or found.requires_grad:
        return False
    return bool((found.clamp(0, 1) - returned).abs().max() < 1 / 127)


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
