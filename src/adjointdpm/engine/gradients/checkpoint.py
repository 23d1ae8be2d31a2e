"""Exact gradients with one network graph in memory, by recomputing each network call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from weakref import WeakKeyDictionary

import psutil
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.engine.gradients.autograd.kept_buffers import unchanged_buffers
from adjointdpm.engine.gradients.autograd.managed_weights import who_manages
from adjointdpm.engine.gradients.autograd.recompute import Recomputation
from adjointdpm.engine.gradients.autograd.replayed_randomness import Draws
from adjointdpm.engine.gradients.base import AutogradMethod
from adjointdpm.engine.inplace_changes import BETWEEN, change_counts, check_unchanged
from adjointdpm.engine.tree import leaves
from adjointdpm.errors import CapturedTensorError, InvalidInputError, InvalidTypeError

# Shares of the free memory that "auto" uses: the rest is for the optimiser and temporary buffers.
AUTO_SHARE = 0.7


@dataclass(frozen=True)
class Checkpoint(AutogradMethod):
    """Gradient of the discrete sampler to rounding, in the memory of one network call.

    Every network call keeps only its inputs (a latent and the conditioning) and is run again in the
    backward pass. The state arithmetic around the calls, kilobytes per step, stays in the autograd
    graph. Not the sampler step but the call is checkpointed, so stateful samplers work, and tensors
    captured by closures get their gradients. (A module must use captured tensors in its first call
    already; its parameters may come and go.) The second run has the autocast, grad mode, random
    state (dropout) and buffers (running statistics) of the first, and leaves those of now as they
    are. Where a library shards the weights or shares out their gradients by hooks (FSDP, DDP), the
    call goes through `torch.utils.checkpoint`, which runs them.

    The backward pass needs the last calls first, so their graphs are the ones worth keeping. The
    last graph is always kept, since it costs no memory that the backward pass would not need
    anyway. `memory_budget` allows for more. If m of N calls are kept, the network does
    (N - m)(2F + B) + m(F + B) work, F a forward and B a backward pass (Chen et al. 2016, arXiv
    1604.06174, with segments of one network call).

    Args:
        memory_budget: bytes that network graphs may hold. `"auto"` takes 70 % of the memory that is
            free when sampling starts. `None` keeps one graph, the least possible. A budget costs
            one extra forward pass for each model and input shape, to measure a graph.

    Raises:
        InvalidInputError: the budget is not positive, or an unknown word.
        InvalidTypeError: the budget is neither None, an int nor a string.

    """

    memory_budget: int | Literal["auto"] | None = None
    _keep_last: bool = field(default=True, init=False, repr=False)
    _graph_bytes: WeakKeyDictionary[Any, dict[Any, int]] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        budget = self.memory_budget
        if budget is None or budget == "auto":
            return
        if isinstance(budget, str):
            raise InvalidInputError(
                f'memory_budget={budget!r} is unknown; pass a number of bytes, "auto" or None'
            )
        if isinstance(budget, bool) or not isinstance(budget, int):
            raise InvalidTypeError(
                f"memory_budget={budget!r} must be an int (bytes), 'auto' or None"
            )
        if budget <= 0:
            raise InvalidInputError(
                f"memory_budget={budget} must be a positive number of bytes; None keeps one graph"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles start without measured sizes."""
        return type(self), (self.memory_budget,)

    def without_last(self, memory_budget: int | None) -> "Checkpoint":
        """The same, keeping only those graphs that `memory_budget` pays for: none if it is None.

        For a solve followed by something whose graph the backward pass needs first: a decoder. What
        was measured is shared.
        """
        method = Checkpoint(memory_budget)
        object.__setattr__(method, "_keep_last", False)
        object.__setattr__(method, "_graph_bytes", self._graph_bytes)
        return method

    def wrap(self, fn: Callable[..., Any], calls: int) -> Callable[..., Any]:
        """Return `fn` with recomputation, for the `calls` calls that one solve makes.

        Args:
            fn: the network; its first argument is the state.
            calls: how often it will be called.

        """
        made = 0
        kept = int(self._keep_last)
        owner = _network(fn)
        managed = who_manages(owner) is not None
        recompute: Recomputation | None = None
        if not managed:
            recompute = Recomputation(owner if isinstance(owner, torch.nn.Module) else None)
        draws: Draws | None = None

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal made, kept, recompute, draws
            if not torch.is_grad_enabled():
                return fn(*args, **kwargs)
            if made == 0 and self.memory_budget is not None:
                kept = self._graphs_that_fit(fn, args, kwargs)
            made += 1
            hold = made > calls - kept
            # A graph that is kept needs no node of ours, except on a GPU: there a CUDA graph would
            # write the gradients of other calls over its own.
            on_gpu = any(tensor.is_cuda for tensor in leaves([*args, *kwargs.values()]))
            if recompute is not None and (not hold or (recompute.compiled and on_gpu)):
                try:
                    return (recompute.held if hold else recompute)(fn, *args, **kwargs)
                except CapturedTensorError:
                    recompute = None
            if hold:
                return fn(*args, **kwargs)
            # Only autograd can pass a gradient on to a captured result of other operations, or run
            # the hooks of a library that manages the weights. That is slower, with hooks on every
            # tensor that it saves.
            given = leaves([*args, *kwargs.values()])
            plain = isinstance(owner, torch.nn.Module) and not managed
            weights = list(owner.parameters()) if plain else []
            draws = draws or Draws(given[0].device if given else torch.device("cpu"), owner)
            again = _replayed(fn, draws, made, [*weights, *given])
            return checkpoint(again, *args, use_reentrant=False, **kwargs)

        return call

    def budget_bytes(self, device: torch.device) -> int | None:
        """The budget of a solve that starts now on `device`, or None if there is none."""
        if self.memory_budget == "auto":
            return int(AUTO_SHARE * free_bytes(device))
        return self.memory_budget

    def _graphs_that_fit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> int:
        graph = max(1, self.measured_bytes(fn, *args, **kwargs))
        tensors = leaves([*args, *kwargs.values()])
        budget = self.budget_bytes(tensors[0].device if tensors else torch.device("cpu"))
        return max(int(self._keep_last), (budget or 0) // graph)

    def measured_bytes(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
        """`graph_bytes`, measured once for each network and kind of arguments."""
        tensors = leaves([*args, *kwargs.values()])
        owner = _network(fn)
        trained = (
            sum(p.requires_grad for p in owner.parameters())
            if isinstance(owner, torch.nn.Module)
            else 0
        )
        try:
            known = self._graph_bytes.setdefault(owner, {})
        except TypeError:  # no hash, or no weak references: measured every time
            known = {}
        modes = [
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in {t.device.type for t in tensors}
        ]
        key = (
            trained,
            getattr(owner, "training", False),
            *modes,
            *((tuple(t.shape), t.dtype, t.device) for t in tensors),
        )
        if key not in known:
            known[key] = graph_bytes(fn, *args, **kwargs)
        return known[key]


def _network(fn: Callable[..., Any]) -> Any:
    """The network that `fn` runs, which stays the same from solve to solve.

    Bound methods, and the denoisers around a network, are made anew for each solve.
    """
    owner = getattr(fn, "__self__", fn)
    return owner.network if isinstance(owner, Denoiser) else owner


def _replayed(
    fn: Callable[..., Any], draws: Draws, call: int, tensors: list[torch.Tensor]
) -> Callable[..., Any]:
    """`fn`, whose later runs start from the random numbers and buffers of its first.

    They raise ChangedTensorError if `tensors` were changed in place meanwhile: autograd itself
    checks only tensors that it saved.
    """
    before = change_counts(tensors)
    runs = 0

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal runs
        check_unchanged(tensors, before, BETWEEN)
        runs += 1
        with draws.recorded(call) if runs == 1 else draws.repeated(call):
            return fn(*args, **kwargs)

    return run


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`."""
    if device.type == "cuda":
        unused_by_allocator = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
            device
        )
        return torch.cuda.mem_get_info(device)[0] + unused_by_allocator
    return psutil.virtual_memory().available


def graph_bytes(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Bytes that the autograd graph of one call of `fn` holds; runs `fn` once.

    Inputs and weights do not count. The first tensor argument counts as requiring grad, as the
    state does from the second step on.
    """
    saved: dict[int, tuple[StorageWeakRef, int]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        # Otherwise a node that saves its own output would be in a reference cycle, and the graph
        # would outlive its output.
        return tensor.detach()

    first = next(
        (i for i, a in enumerate(args) if isinstance(a, torch.Tensor) and a.is_floating_point()),
        None,
    )
    if first is not None:
        args = (*args[:first], args[first].detach().requires_grad_(), *args[first + 1 :])
    cuda = [a.device for a in args if isinstance(a, torch.Tensor) and a.is_cuda]
    with torch.random.fork_rng(devices=cuda[:1]), torch.enable_grad():
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with unchanged_buffers(fn), hooks:
            output = fn(*args, **kwargs)
        del output
    # What outlives the graph is a weight or an input, which is there anyway.
    return sum(size for reference, size in saved.values() if reference.expired())
