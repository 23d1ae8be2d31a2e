"""Recomputed calls of a network whose arguments and results are nested containers of tensors."""

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from adjointdpm.engine.gradients.autograd.captured_tensors import Outputs
from adjointdpm.engine.gradients.autograd.containers import (
    Form,
    put_together,
    take_apart,
    write_back,
)
from adjointdpm.engine.gradients.autograd.recompute import (
    Graphs,
    Recomputation,
    Run,
    autocast_now,
    is_recomputed,
)
from adjointdpm.engine.gradients.autograd.replayed_randomness import Draws
from adjointdpm.engine.torch_internals import change_count
from adjointdpm.errors import ChangedTensorError

# Share of the sum of absolute values by which a second run may differ: far above rounding, far
# below what another state of the network makes.
TOLERANCE = 1e-3
LOOK_BACK = 3  # calls whose copies are searched for equal ones


class HeldGraphs:
    """Graphs of the latest calls, up to a number of bytes: the first that a backward pass needs.

    Args:
        budget: bytes; 0 keeps none.

    """

    def __init__(self, budget: int = 0) -> None:
        self.budget = budget
        self._held: deque[tuple[Graphs, int]] = deque()
        self._bytes = 0

    def fits(self, size: int) -> bool:
        """Whether a graph of `size` bytes can be kept at all."""
        return 0 < size <= self.budget

    def add(self, graphs: Graphs, size: int) -> None:
        """Keep the graph in `graphs`, and drop the oldest ones that no longer fit."""
        self._held.append((graphs, size))
        self._bytes += size
        while self._bytes > self.budget:
            old, freed = self._held.popleft()
            old.clear()
            self._bytes -= freed


class TreeRecomputation:
    """The calls of one network in one run of a pipeline: one autograd node each, run again by it.

    Args:
        name: of the network, for messages.
        network: the module.
        state: called at each first run; returns what makes a context for the second run, in which
            the network is as it was at the first (a pipeline may swap parts of it around its loop).

    Attributes:
        nodes: one autograd node for each call that depends on something that requires grad.

    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        state: Callable[[], Callable[[], AbstractContextManager[Any]]] = lambda: nullcontext,
    ) -> None:
        self.name, self._network, self._state = name, network, state
        self._recomputation = Recomputation(network)
        self._draws: Draws | None = None
        self._calls = 0
        self._former: list[list[_Copy]] = []
        self.nodes: list[Any] = []

    def __call__(
        self, args: Sequence[Any], kwargs: dict[str, Any], held: HeldGraphs, size: int
    ) -> Any:
        """What the network returns for the arguments, in the containers that it uses.

        Args:
            args, kwargs: of the network.
            held: keeps the graph of this call if it fits.
            size: of that graph, in bytes.

        Raises:
            CapturedTensorError: the network uses a tensor that requires grad, is no argument of its
                and was computed outside.
            ChangedTensorError: in the backward pass, the second run gave another result.

        """
        flat, form = take_apart((tuple(args), kwargs))
        places = [i for i, value in enumerate(flat) if isinstance(value, Tensor)]
        tensors = self._kept([flat[i] for i in places])
        rest = [None if isinstance(value, Tensor) else value for value in flat]
        device = _device([*tensors, *self._recomputation.weights])
        if self._draws is None:
            self._draws = Draws(device, self._network)
        number, self._calls = self._calls, self._calls + 1
        draws, as_it_was, casts = self._draws, self._state(), autocast_now(device.type)
        result = _Result(form)

        def run(given: Sequence[Tensor]) -> Outputs:
            values = list(rest)
            for place, tensor in zip(places, given, strict=True):
                values[place] = tensor
            # New containers for each run: some networks change those that they are given.
            containers = put_together(values, form)
            with casts():
                found = self._network(*containers[0], **containers[1])
            return result.take(found, containers, values)

        sums: list[Tensor] = []

        def again(given: Sequence[Tensor]) -> Outputs:
            with draws.repeated(number), as_it_was():
                outputs = run(given)
            result.clear()
            self._check(sums, outputs)
            return outputs

        with draws.recorded(number):
            outputs = self._attach(run, again, tensors, held, size)
        sums += _sums(outputs)
        self.nodes += [o.grad_fn for o in outputs if o is not None and o.grad_fn is not None][:1]
        found, *containers = result.put_together(flat, outputs)
        if containers:
            write_back(containers[0], (tuple(args), kwargs))
        result.clear()
        return found

    def close(self) -> None:
        """Let go of the run's tensors: no call will follow.

        They lead back to this object by their graph, where Python's garbage collector cannot see.
        """
        self._former, self.nodes = [], []

    def _attach(
        self, run: Run, again: Run, tensors: Sequence[Tensor], held: HeldGraphs, size: int
    ) -> Outputs:
        if self._recomputation.known is not None and not held.fits(size):
            return self._recomputation.attach_known(run, again, tensors)
        graphs: Graphs | None = [] if held.fits(size) else None
        outputs = self._recomputation.attach(run, again, tensors, graphs)
        if graphs:
            held.add(graphs, size)
        return outputs

    def _kept(self, tensors: list[Tensor]) -> list[Tensor]:
        """Copies of `tensors`, which nobody can write into before the second run.

        Some pipelines write each new state into the tensor of the former one. The former call's
        copies stand for what is the same again, such as the prompts, and for what is equal:
        pipelines make constants such as rotary tables and time ids anew for every call, and they
        would pile up.
        """
        former = [copies for copies in self._former if len(copies) == len(tensors)]
        now = [
            next((then[i] for then in former if then[i].holds(tensor)), None) or _Copy(tensor)
            for i, tensor in enumerate(tensors)
        ]
        # Guidance in calls of their own has one prompt in every second call, or third.
        self._former = [now, *self._former][:LOOK_BACK]
        return [copy.kept for copy in now]

    def _check(self, before: Sequence[Tensor], outputs: Outputs) -> None:
        for (total, size), (now, _) in zip(before, _sums(outputs), strict=True):
            if bool((total - now).abs() > TOLERANCE * size) or bool(
                total.isfinite() != now.isfinite()
            ):
                raise ChangedTensorError(
                    f"the second run of the network {self.name!r} gave another result than the "
                    f"first (sum {now.item():.6g} instead of {total.item():.6g}), so its gradient "
                    "would be wrong: the pipeline changes the network or what it keeps (a cache) "
                    'between its calls and the backward pass; use gradient="backprop"'
                )


class _Result:
    """What a run returned, and what it made of the containers that it was given.

    Args:
        form: of those containers.

    """

    def __init__(self, form: Form) -> None:
        self._form = form
        self.clear()

    def clear(self) -> None:
        """Let go of everything."""
        self._trees: list[tuple[list[Any], Form]] = []  # what was returned, and the containers

    def take(self, found: Any, containers: Any, values: Sequence[Any]) -> Outputs:
        """The new tensors among both; `values` are the leaves that the run was given."""
        new: dict[int, Tensor] = {}
        leaves, form = take_apart(found)
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                leaves[i] = _Output(_number(leaf, new))
        after, after_form = take_apart(containers)
        if after_form == self._form and all(a is b for a, b in zip(after, values, strict=True)):
            self._trees = [(leaves, form)]
            return tuple(new.values())
        given = {id(value): i for i, value in enumerate(values)}
        for i, leaf in enumerate(after):
            if isinstance(leaf, Tensor):
                known = given.get(id(leaf))
                after[i] = _Output(_number(leaf, new)) if known is None else _Input(known)
        self._trees = [(leaves, form), (after, after_form)]
        return tuple(new.values())

    def put_together(self, inputs: Sequence[Any], outputs: Outputs) -> list[Any]:
        """What was returned, and the containers if the run changed them, of the caller's tensors.

        Args:
            inputs: the caller's leaves.
            outputs: of the node.

        """

        def own(leaf: Any) -> Any:
            if isinstance(leaf, _Input):
                return inputs[leaf]
            return outputs[leaf] if isinstance(leaf, _Output) else leaf

        return [put_together([own(leaf) for leaf in leaves], form) for leaves, form in self._trees]


class _Input(int):
    """The number of a leaf among those that a run was given."""


class _Output(int):
    """The number of a tensor among the outputs of a run."""


def _number(tensor: Tensor, known: dict[int, Tensor]) -> int:
    known.setdefault(id(tensor), tensor)
    return list(known).index(id(tensor))


def _sums(outputs: Outputs) -> list[Tensor]:
    """For each output, its sum and the sum of its absolute values, in float64."""
    dtype = torch.float64
    found = [output.detach() for output in outputs if output is not None]
    found = [output.byte() if output.dtype == torch.bool else output for output in found]
    if any(output.device.type == "mps" for output in found):
        dtype = torch.float32
    return [torch.stack([o.sum(dtype=dtype), o.abs().sum(dtype=dtype)]) for o in found]


class _Copy:
    """A tensor as it was when a network was given it.

    Leaves that want a gradient are not copied: they cannot be written into within a graph, and who
    does so after it gets an error. What another recomputed call made is not copied either: that
    call makes it again.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._original = weakref.ref(tensor)
        self._count = change_count(tensor)
        leaf = tensor.is_leaf and tensor.requires_grad
        self.kept = tensor if leaf or is_recomputed(tensor) else tensor.clone()

    def holds(self, tensor: Tensor) -> bool:
        """Whether the copy stands for `tensor` too."""
        if self._original() is tensor and self._count == change_count(tensor):
            return True
        return (
            not (self.kept.requires_grad or tensor.requires_grad)
            and self.kept.shape == tensor.shape
            and self.kept.dtype == tensor.dtype
            and self.kept.device == tensor.device
            and torch.equal(self.kept, tensor)
        )


def _device(tensors: Sequence[Tensor]) -> torch.device:
    """Where a network computes: that of a GPU among its tensors, or else the CPU."""
    return next((t.device for t in tensors if not (t.is_cpu or t.is_meta)), torch.device("cpu"))
