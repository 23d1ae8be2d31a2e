"""What a variable is: learned tensors, their place in the model, their set and their file."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from adjointdpm.errors import CheckpointError, OutputError
from adjointdpm.pipelines.examples import Example, Inputs


class Variable(ABC):
    """Learned tensors.

    Inside its context (`with variable:`) it is part of the model; leaving the context restores the
    model.

    Attributes:
        artefacts: the files and folders that `save` leaves, as paths in its folder.

    """

    artefacts: tuple[str, ...]
    _first: dict[str, Tensor] | None = None

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The learned leaf tensors by name: what the optimiser changes and a checkpoint holds."""

    def apply(self, inputs: Inputs) -> Inputs:
        """Return what the model gets in place of these inputs; differentiable in the tensors."""
        return inputs

    def check(self, examples: Sequence[Example]) -> None:  # noqa: B027 - most variables take any
        """Raise if an example cannot be drawn with the variable.

        Called inside the context, before anything is drawn.
        """

    def project(self) -> None:  # noqa: B027 - most variables are free
        """Move the tensors back into the set that they must stay in.

        Called after every optimiser step.
        """

    @abstractmethod
    def save(self, folder: Path) -> Path:
        """Write `artefacts`, in diffusers' own format where there is one.

        Returns:
            The path of the first.

        """

    def usage(self) -> list[str]:
        """Lines of Python that put the saved files to use in a stock pipeline `pipe`.

        They run in the folder that was saved to, and need nothing of this library.
        """
        return []

    def check_saved(self, folder: Path) -> None:  # noqa: B027 - a variable may save nothing
        """Read what `save` wrote, and compare it with what was learned.

        Raises:
            OutputError: a file cannot be read, or holds other names or values.

        """

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the model is the untouched one although the variable's context is open.

        What only `apply` brings in is not affected.
        """
        yield

    def first_values(self) -> dict[str, Tensor]:
        """The tensors' values at the start, by name.

        They are copied at the first call, which is before the context is entered for the first time
        and before a checkpoint is loaded.
        """
        if self._first is None:
            self._first = {name: tensor.detach().clone() for name, tensor in self.tensors().items()}
        return self._first

    def units(self) -> dict[str, Tensor]:
        """What counts as a change of size 1, by name: the root mean square of natural values.

        Each has the tensor's number of dimensions. Where its size is 1, the optimiser
        `normalized` normalises over that dimension: `[n, 1, …]` are n things that move on their
        own.

        Returns:
            By default, the root mean square of each tensor's start, over all its elements.

        """
        return {name: as_unit(rms(value), value) for name, value in self.first_values().items()}

    def regularisers(self) -> dict[str, Float[Tensor, ""]]:
        """Scalars that may be added to an objective, differentiable in the learned tensors.

        Returns:
            "distance": the mean square of the change since the start, over all elements of all
            tensors, divided by the mean square of the start unless that is zero. It is 0 at the
            start and 1 for a change as large as the start. A variable may have others.

        """
        start, tensors = self.first_values(), self.tensors()
        change = torch.stack(
            [(tensor - start[name].to(tensor)).square().sum() for name, tensor in tensors.items()]
        ).sum()
        scale = sum(start[name].square().sum().item() for name in tensors)
        return {"distance": change / (scale or sum(tensor.numel() for tensor in tensors.values()))}

    def at_strength(self, strength: float) -> dict[str, Tensor]:
        """Values of the tensors that change the model `strength` times as much as those now do.

        They are start + strength · (now − start) here: exactly the start at 0 and what is there now
        at 1. `load_tensors` puts them in place.
        """
        start = self.first_values()
        return {
            name: torch.lerp(start[name].to(tensor), tensor.detach(), strength)
            for name, tensor in self.tensors().items()
        }

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Copy values in from a checkpoint.

        Raises:
            CheckpointError: other names or shapes than `tensors()` has.

        """
        self.first_values()
        own = self.tensors()
        if {name: t.shape for name, t in own.items()} != {
            name: t.shape for name, t in tensors.items()
        }:
            raise CheckpointError(
                f"the checkpoint holds {_shapes(tensors)}, this run learns {_shapes(own)}; it "
                f"belongs to another run"
            )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(tensors[name])

    def __enter__(self) -> Self:
        self.first_values()
        return self

    def __exit__(self, *_: object) -> None:
        return None


def rms(values: Tensor) -> float:
    """The root mean square of all elements."""
    return values.detach().float().square().mean().sqrt().item()


def as_unit(size: float, like: Tensor) -> Tensor:
    """One unit for a whole tensor: see `Variable.units`. A size of 0 counts as 1."""
    return torch.full([1] * like.ndim, size or 1.0, dtype=torch.float32, device=like.device)


def check_tensors(path: Path, expected: Mapping[str, Tensor]) -> None:
    """Read a safetensors file back, and compare.

    Raises:
        OutputError: see `Variable.check_saved`.

    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} was written and cannot be read back: {error}") from error
    compare_tensors(path, found, expected)


def compare_tensors(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Raise OutputError unless both hold the same tensors under the same names."""
    names = sorted(found.keys() ^ expected.keys())
    if names:
        raise OutputError(f"{path} was written, and read back it differs in the names {names[:4]}")
    for name, tensor in expected.items():
        if not torch.equal(found[name], tensor.detach().cpu()):
            raise OutputError(f"{path} was written, and read back {name} has other values")


def _shapes(tensors: dict[str, Tensor]) -> str:
    return (
        ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()) or "nothing"
    )
