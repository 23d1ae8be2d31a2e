"""Find tensors that were changed in place while a solve still needs what they held."""

from collections.abc import Iterable

from torch import Tensor

from adjointdpm.engine.torch_internals import change_count
from adjointdpm.errors import ChangedTensorError

BETWEEN = (
    "the noise, the conditioning or a weight was changed in place between sampling and the "
    "backward pass, which runs the network again; call backward() before optimizer.step(), or "
    "sample again"
)


def change_counts(tensors: Iterable[Tensor]) -> list[int]:
    """How often each tensor has been changed in place, as autograd counts it."""
    return [change_count(tensor) for tensor in tensors]


def check_unchanged(tensors: Iterable[Tensor], before: list[int], message: str) -> None:
    """Raise ChangedTensorError with `message` unless `change_counts` is still `before`."""
    if change_counts(tensors) != before:
        raise ChangedTensorError(message)
