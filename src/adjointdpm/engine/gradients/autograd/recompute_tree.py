"""Recomputed calls of a network whose arguments and results are nested containers of tensors."""

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from adjointdpm.engine.gradients.autograd.captured_tensors import Outputs
from adjointdpm.engine.gradients.autograd.recompute import Graphs, Recomputation, Run, autocast_now
from adjointdpm.engine.gradients.autograd.replayed_randomness import Draws
from adjointdpm.engine.torch_internals import change_count
from adjointdpm.errors import ChangedTensorError

# Share of the sum of absolute values by which a second run may differ: far above rounding, far
# below what another state of the network makes.
TOLERANCE = 1e-3


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
        self._former: list[_Copy] = []
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
        flat, spec = tree_flatten((tuple(args), kwargs))
        places = [i for i, value in enumerate(flat) if isinstance(value, Tensor)]
        tensors = self._kept([flat[i] for i in places])
        rest = [None if isinstance(value, Tensor) else value for value in flat]
        device = _device(self._network, tensors)
        if self._draws is None:
            self._draws = Draws(device, self._network)
        number, self._calls = self._calls, self._calls + 1
        draws, as_it_was, casts = self._draws, self._state(), autocast_now(device.type)
        result: dict[str, Any] = {}

        def run(given: Sequence[Tensor]) -> Outputs:
            values = list(rest)
            for place, tensor in zip(places, given, strict=True):
                values[place] = tensor
            # New containers for each run: some networks empty the lists that they are given.
            positional, named = tree_unflatten(values, spec)
            with casts():
                found, form = tree_flatten(self._network(*positional, **named))
            result["leaves"], result["form"] = found, form
            return tuple(value for value in found if isinstance(value, Tensor))

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
        remaining = iter(outputs)
        leaves = [
            next(remaining) if isinstance(leaf, Tensor) else leaf for leaf in result["leaves"]
        ]
        form = result["form"]
        result.clear()
        return tree_unflatten(leaves, form)

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
        former = self._former if len(self._former) == len(tensors) else [None] * len(tensors)
        self._former = [
            then if then is not None and then.holds(tensor) else _Copy(tensor)
            for then, tensor in zip(former, tensors, strict=True)
        ]
        return [copy.kept for copy in self._former]

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


def _sums(outputs: Outputs) -> list[Tensor]:
    """For each output, its sum and the sum of its absolute values, in float64."""
    dtype = torch.float64
    found = [output.detach() for output in outputs if output is not None]
    if any(output.device.type == "mps" for output in found):
        dtype = torch.float32
    return [torch.stack([o.sum(dtype=dtype), o.abs().sum(dtype=dtype)]) for o in found]


class _Copy:
    """A tensor as it was when a network was given it; leaves that want a gradient are not copied.

    Those cannot be written into within a graph, and others may after it, which is an error.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._original = weakref.ref(tensor)
        self._count = change_count(tensor)
        self.kept = tensor if tensor.is_leaf and tensor.requires_grad else tensor.clone()

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


def _device(network: nn.Module, tensors: Sequence[Tensor]) -> torch.device:
    """Where the network computes: that of a GPU among its tensors, or else the CPU."""
    devices = [tensor.device for tensor in [*tensors, *network.parameters()]]
    return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))
