"""Several variables as one."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from torch import Tensor

from adjointdpm.errors import InvalidInputError
from adjointdpm.pipelines.examples import Example, Inputs
from adjointdpm.variables.base import Variable


class Joint(Variable):
    """Variables that are learned together, each with its own set and its own file.

    Args:
        parts: at least one, of different classes.

    Raises:
        InvalidInputError: none, or two of one class.

    """

    def __init__(self, parts: Sequence[Variable]) -> None:
        self.parts = {type(part).__name__.lower(): part for part in parts}
        if not parts or len(self.parts) < len(parts):
            raise InvalidInputError(
                "a joint variable takes variables of different classes, not "
                f"{[type(part).__name__ for part in parts]}"
            )
        self.artefacts = tuple(path for part in parts for path in part.artefacts)
        self._stack = ExitStack()

    def tensors(self) -> dict[str, Tensor]:
        """The parts' tensors, with the part's name in front."""
        return {
            f"{name}.{key}": tensor
            for name, part in self.parts.items()
            for key, tensor in part.tensors().items()
        }

    def units(self) -> dict[str, Tensor]:
        """The parts' units, named as their tensors."""
        return {
            f"{name}.{key}": unit
            for name, part in self.parts.items()
            for key, unit in part.units().items()
        }

    def apply(self, inputs: Inputs) -> Inputs:
        """Apply the parts one after the other."""
        for part in self.parts.values():
            inputs = part.apply(inputs)
        return inputs

    def check(self, examples: Sequence[Example]) -> None:
        """Call every part's `check`."""
        for part in self.parts.values():
            part.check(examples)

    def project(self) -> None:
        """Call every part's `project`."""
        for part in self.parts.values():
            part.project()

    def save(self, folder: Path) -> Path:
        """Save every part; returns the first one's path."""
        paths = [part.save(folder) for part in self.parts.values()]
        return paths[0]

    def usage(self) -> list[str]:
        """The parts' lines, each once."""
        return list(dict.fromkeys(line for part in self.parts.values() for line in part.usage()))

    def check_saved(self, folder: Path) -> None:
        """Call every part's `check_saved`."""
        for part in self.parts.values():
            part.check_saved(folder)

    def regularisers(self) -> dict[str, Tensor]:
        """The parts' regularisers; those of one name are added up."""
        total: dict[str, Tensor] = {}
        for part in self.parts.values():
            for name, value in part.regularisers().items():
                total[name] = total[name] + value if name in total else value
        return total

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, all parts are disabled."""
        with ExitStack() as stack:
            for part in self.parts.values():
                stack.enter_context(part.disabled())
            yield

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for part in self.parts.values():
                stack.enter_context(part)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
