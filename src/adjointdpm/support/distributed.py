"""Several processes, one run: Accelerate starts and connects them, the loop shares its examples out
and adds the gradients up.

No model is wrapped. Gradients come through samplers and adjoints, so that only the sum over the
learned tensors has to be the same everywhere, and a process that has nothing to draw takes part in
it with nothing.
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

    Without MPI `accelerate launch --cpu` starts a single one, whatever `--num_processes` says. What
    starts several on a machine without a GPU is `accelerate launch --multi_gpu --num_processes 2 -m
    adjointdpm`, in spite of its name, or torchrun; these talk through gloo.

    The connection is made when it is first needed. All methods but the properties and `share` must
    be called by every process, in the same order; with one process they cost nothing.
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
        """Where this process's model belongs: each process of one machine has a GPU of its own.

        Ask before a model is loaded.
        """
        return cast(torch.device, self._state.device)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The slice of `items` that is this process's; sizes differ by at most one, and may be 0."""
        return items[
            len(items) * self.index // self.count : len(items) * (self.index + 1) // self.count
        ]

    @overload
    def gather(self, values: Tensor) -> Tensor: ...
    @overload
    def gather(self, values: Sequence[T]) -> list[T]: ...
    def gather(self, values: Tensor | Sequence[T]) -> Tensor | list[T]:
        """All processes' values, in the order that `share` had taken them from.

        Args:
            values: picklable ones, or a tensor whose first dimension was shared out; it comes back
                on the CPU. One that holds nothing may be `torch.empty(0)`, whatever the others'
                shape is.

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
        """Call `make` in the main process alone and return its result, which must be picklable, in
        all of them.

        Raises:
            Exception: what `make` raised; in the other processes one of the same class
                (RuntimeError if it is not this library's).

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
        """Let a failure of the block in one process be a failure in all, which would wait for it
        without end otherwise.

        The block itself must not call methods of this class that every process must call.
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
        """Return when every process has come here."""
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
    """Whether Accelerate must be told that the processes are to talk through the CPU: without a GPU
    it sees one process else.
    """
    if max(int(os.environ.get(name, 1)) for name in _COUNTS) == 1:
        return False
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes"):
        return True
    return (
        not torch.accelerator.is_available()
        or cast(torch.device, torch.accelerator.current_accelerator()).type == "mps"
    )
