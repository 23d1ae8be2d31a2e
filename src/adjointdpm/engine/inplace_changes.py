"""Tensors that are changed in place while a solve still needs them: found by autograd's version
counters, which count such changes.
"""

from collections.abc import Iterable

from torch import Tensor

from adjointdpm.errors import ChangedTensorError

BETWEEN = (
    "the noise, the conditioning or a weight was changed in place between sampling and the "
    "backward pass, which runs the network again; call backward() before optimizer.step(), or "
    "sample again"
)


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each tensor has been changed in place; 0 for tensors of `torch.inference_mode`,
    which do not count.
    """
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]


def check_unchanged(tensors: Iterable[Tensor], before: list[int], message: str) -> None:
    """Raise ChangedTensorError with `message` unless the versions of `tensors` are those of
    `before`.
    """
    if versions(tensors) != before:
        raise ChangedTensorError(message)
