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
        self._numpy: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.numpy and (args[0].requires_grad or _is_picture(args[0])):
            self._numpy = args[0].movedim(-1, -3) if _is_picture(args[0]) else args[0]
            return func(args[0].detach(), *args[1:], **kwargs)
        if func in (Tensor.clamp, torch.clamp, Tensor.clip, torch.clip) and args[0].ndim >= 3:
            bounds = (*args[1:], *(kwargs[name] for name in ("min", "max") if name in kwargs))
            if bounds in _RANGES:
                self._clamped, self._low = args[0], int(bounds[0])
        return func(*args, **kwargs)

    def of(self, output: Any) -> Tensor | None:
        """The unclamped counterpart of what a pipeline returned; None if it made no tensor."""
        returned, clamped = _tensor(output), self._clamped
        if clamped is not None and returned is not None and self._clamps_to(clamped, returned):
            return clamped
        if self._found is None or (returned is not None and not self._lost(returned)):
            return returned
        return self._found

    def _clamps_to(self, clamped: Tensor, returned: Tensor) -> bool:
        return clamped.shape == returned.shape and torch.equal(
            clamped.detach().clamp(self._low, 1), returned.detach()
        )

    def _lost(self, returned: Tensor) -> bool:
        """Whether a graph ended between what was noted and what was returned."""
        return self._found is not None and self._found.requires_grad and not returned.requires_grad

    @property
    def _found(self) -> Tensor | None:
        return self._clamped if self._clamped is not None else self._numpy


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
