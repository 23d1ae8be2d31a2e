"""Several processes, one run.

Accelerate starts and connects them. The optimisation loop shares out its examples among them and
adds up the gradients. No model is wrapped: only the sum over the learned tensors has to be the same
everywhere, and a process that has nothing to draw adds nothing.
"""

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast, overload

import torch
from torch import Tensor

from adjointdpm.errors import AdjointDPMError

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
_COUNTS = (
    "WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
)  # set by torchrun, accelerate launch, mpirun


class Processes:
    """The processes that `accelerate launch` or torchrun started; just this one if nothing did.

    Without MPI, `accelerate launch --cpu` starts a single process, whatever `--num_processes` says.
    On a machine without a GPU, start several with torchrun, or with `accelerate launch --multi_gpu
    --num_processes 2 -m adjointdpm` (in spite of the flag's name); they talk through gloo.

    The connection is made when it is first needed. Every process must call all methods except the
    properties and `share`, in the same order. With one process they cost nothing.
    """

    @property
    def count(self) -> int:
        """How many there are."""
        return self._state.num_processes

    @property
    def index(self) -> int:
        """Which one this is, from 0."""
        return self._state.process_index

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.index == 0

    @property
    def device(self) -> torch.device:
        """Where this process's model belongs: on one machine each process has its own GPU.

        Ask before a model is loaded.
        """
        return cast(torch.device, self._state.device)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The slice of `items` for this process; sizes differ by at most one, and may be 0."""
        return items[
            len(items) * self.index // self.count : len(items) * (self.index + 1) // self.count
        ]

    @overload
    def gather(self, values: Tensor) -> Tensor: ...
    @overload
    def gather(self, values: Sequence[T]) -> list[T]: ...
    def gather(self, values: Tensor | Sequence[T]) -> Tensor | list[T]:
        """All processes' values, in the order from which `share` took them.

        Args:
            values: picklable values, or a tensor whose first dimension was shared out; it comes
                back on the CPU. A process without values may pass `torch.empty(0)`, whatever the
                others' shape is.

        """
        if isinstance(values, Tensor):
            return torch.cat(self._gather_objects([values.detach().cpu().contiguous()]))
        return self._gather_objects(list(values))

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return any(self._gather_objects([flag]))

    @torch.no_grad()
    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the processes: the same bits everywhere."""
        if self.count == 1:
            return
        from accelerate.utils import reduce

        for tensor in tensors:
            tensor.copy_(cast(Tensor, reduce(tensor.to(self.device), "sum")))

    @torch.no_grad()
    def copy_from_main_(self, tensors: Iterable[Tensor]) -> None:
        """Give each tensor the values that it has in the main process."""
        if self.count == 1:
            return
        from accelerate.utils import broadcast

        for tensor in tensors:
            moved = tensor.detach().to(self.device).contiguous()
            broadcast(moved)
            tensor.copy_(moved)

    def from_main(self, make: Callable[[], T]) -> T:
        """Call `make` in the main process alone, and return its result in all processes.

        Args:
            make: its result must be picklable.

        Raises:
            Exception: what `make` raised. The other processes raise the same class, or RuntimeError
                if it is not an error of this library.

        """
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        box: list = [None, None]
        raised: Exception | None = None
        if self.is_main:
            try:
                box[0] = make()
            except Exception as error:
                raised, box[1] = error, self._describe(error)
        broadcast_object_list(box)
        if raised is not None:
            raise raised
        if box[1] is not None:
            box[1].throw()
        return box[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make a failure of the block in one process a failure in all.

        Without this the others would wait for it for ever. The block must not call methods of this
        class that every process must call.
        """
        if self.count == 1:
            yield
            return
        raised: Exception | None = None
        try:
            yield
        except Exception as error:
            raised = error
        failures = self._gather_objects([None if raised is None else self._describe(raised)])
        if raised is not None:
            raise raised
        for failure in failures:
            if failure is not None:
                failure.throw()

    def wait(self) -> None:
        """Wait until every process has come here."""
        self._state.wait_for_everyone()

    @cached_property
    def _state(self) -> "PartialState":
        from accelerate import PartialState

        state = PartialState(cpu=_only_cpu())
        if state.num_processes > 1:
            # Threads of a group that is still there when the interpreter ends can take the process
            # down, after all its work is done.
            atexit.register(state.destroy_process_group)
        return state

    def _gather_objects(self, values: list[T]) -> list[T]:
        if self.count == 1:
            return values
        from accelerate.utils import gather_object

        return gather_object(values)

    def _describe(self, error: Exception) -> "_Failure":
        if isinstance(error, AdjointDPMError):
            return _Failure(type(error), f"{error} (in process {self.index})")
        return _Failure(RuntimeError, f"{type(error).__name__}: {error} (in process {self.index})")


class _Failure(NamedTuple):
    """An exception on its way to other processes; some exceptions cannot be pickled."""

    kind: type[Exception]
    message: str

    def throw(self) -> None:
        raise self.kind(self.message)


def _only_cpu() -> bool:
    """Whether Accelerate must be told to use the CPU: without a GPU it would see one process."""
    if max(int(os.environ.get(name, 1)) for name in _COUNTS) == 1:
        return False
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return True
    return (
        not torch.accelerator.is_available()
        or cast(torch.device, torch.accelerator.current_accelerator()).type == "mps"
    )
