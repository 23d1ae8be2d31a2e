"""Count what a solve costs: network calls, vector-Jacobian products, and memory of graphs."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from adjointdpm.engine.torch_internals import base_of, saved_tensor_hooks


@dataclass
class Stats:
    """Counts of everything that runs within a `with stats() as s:` block; they grow while it runs.

    Args:
        memory: whether `peak_bytes_held` is counted.

    Attributes:
        network_calls: forward passes of the denoiser's network, recomputations included; a guided
            call is one.
        vjps: backward passes through such a call; the forward pass must have run within the block
            too.
        peak_bytes_held: the most bytes held at one time by tensors that networks saved for their
            backward passes. Weights and the network's inputs (state, time, conditioning) do not
            count.
        error_estimates: the estimated relative error of each sample's gradient, one tensor for
            every backward pass of `Interpolated`, in their order. 0 where nothing was
            interpolated, NaN where there was one node only and so no estimate. It is read off
            ∂L/∂x_t; `docs/gradients.md` compares it with the true error for noise and
            conditioning. Other methods add nothing.

    """

    network_calls: int = 0
    vjps: int = 0
    peak_bytes_held: int = 0
    memory: bool = field(default=True, kw_only=True, compare=False, repr=False)
    error_estimates: list[Float[Tensor, " batch"]] = field(default_factory=list, compare=False)
    _held: int = field(default=0, init=False, repr=False, compare=False)
    _storages: set[int] = field(default_factory=set, init=False, repr=False, compare=False)

    def hold(self, tensor: Tensor) -> None:
        """Count the storage of `tensor`, once, until it is freed."""
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if size == 0 or address in self._storages:
            return
        self._storages.add(address)
        self._held += size
        self.peak_bytes_held = max(self.peak_bytes_held, self._held)
        weakref.finalize(storage, self._free, address, size).atexit = False

    def _free(self, address: int, size: int) -> None:
        self._storages.discard(address)
        self._held -= size


# Not thread-local: autograd runs the backward pass of other devices in threads of its own.
running: list[Stats] = []


@contextmanager
def stats(*, memory: bool = True) -> Iterator[Stats]:
    """Count what every solve within the block costs, backward passes included.

    `sample` and a model's `generate` count alike. Blocks may be nested. Outside of them counting
    costs nothing.

    Args:
        memory: whether to count the memory of network graphs, which takes a Python call for each
            saved tensor. Without it `peak_bytes_held` stays 0, and the rest costs next to nothing.

    """
    counts = Stats(memory=memory)
    running.append(counts)
    try:
        yield counts
    finally:
        running[:] = [other for other in running if other is not counts]


@contextmanager
def network_call(network: Callable[..., Any], given: Sequence[Tensor]) -> Iterator[None]:
    """Count one call of `network`, and what autograd saves in it.

    Its weights and the tensors `given` to it do not count.
    """
    counts = tuple(running)
    for count in counts:
        count.network_calls += 1
    counts = tuple(count for count in counts if count.memory)
    if not counts:
        yield
        return
    weights = [*network.parameters(), *network.buffers()] if isinstance(network, nn.Module) else []
    ignored = {tensor.untyped_storage().data_ptr() for tensor in (*given, *weights)}
    # Only the innermost hooks see a saved tensor. Checkpointing has hooks of its own: pass the
    # tensor on to those.
    around = saved_tensor_hooks()
    # If there are none, detach: a node that saves its own output would be in a reference cycle if
    # it got the tensor itself back.
    outer_pack, unpack = around if around is not None else (Tensor.detach, _identity)

    def pack(tensor: Tensor) -> Any:
        # A bare function's weights are known by their class alone; a layer may save a view of one.
        if tensor.untyped_storage().data_ptr() not in ignored and not isinstance(
            base_of(tensor), nn.Parameter
        ):
            for count in counts:
                count.hold(tensor)
        return outer_pack(tensor)

    with saved_tensors_hooks(pack, unpack):
        yield


def count_network_call() -> None:
    """Count one call of a network, without the memory of its graph."""
    for count in running:
        count.network_calls += 1


def count_vjp(output: Tensor, in_place: bool = False) -> Tensor:
    """`output` of a network, with a backward pass through it counted.

    Args:
        output: of the network.
        in_place: count it on the tensor itself, which must be none of the network's inputs.

    """
    if not output.requires_grad:
        return output
    # A view, since a network may return one of its inputs, which has gradients from elsewhere.
    output = output if in_place else output.view_as(output)
    output.register_hook(_count_vjp)
    return output


def add_error_estimate(estimate: Float[Tensor, " batch"]) -> None:
    """Add the estimate of one backward pass to every running `stats` block."""
    for count in running:
        count.error_estimates.append(estimate)


def _count_vjp(_: Tensor) -> None:
    for count in running:
        count.vjps += 1


def _identity(tensor: Tensor) -> Tensor:
    return tensor
