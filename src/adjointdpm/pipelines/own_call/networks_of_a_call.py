"""What the networks of a pipeline do in one call: run, be recomputed, and get their gradients."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.checkpoint import checkpoint

from adjointdpm.engine.counted_network import counted
from adjointdpm.engine.gradients import Backprop, Checkpoint, GradientMethod, Truncated
from adjointdpm.engine.gradients.autograd.managed_weights import who_manages
from adjointdpm.engine.gradients.autograd.recompute_tree import HeldGraphs, TreeRecomputation
from adjointdpm.engine.gradients.checkpoint import AUTO_SHARE, free_bytes, graph_bytes
from adjointdpm.engine.torch_internals import outside_function_mode
from adjointdpm.errors import UnsupportedError
from adjointdpm.pipelines.own_call.finite_stages import FiniteStages
from adjointdpm.pipelines.own_call.moving_weights import (
    check_frozen,
    keeping_weights,
    moves_weights,
)
from adjointdpm.pipelines.own_call.network_state import (
    ChangingParts,
    alone_with,
    left_as_found,
    lock_of,
)
from adjointdpm.pipelines.own_call.twin import swaps_processors


class NetworksOfACall:
    """One call of a pipeline: what its networks do in it."""

    def __init__(self, method: GradientMethod) -> None:
        if not isinstance(method, Backprop | Checkpoint | Truncated):
            raise UnsupportedError(
                f"{method!r} solves an ODE of its own and cannot run a pipeline's own code; use "
                'gradient="exact", Backprop() or Truncated(last=K)'
            )
        self.method = method
        self.scheduler: Any = None
        self.steps = 0
        self.grad = torch.is_grad_enabled()
        self.calls: dict[str, TreeRecomputation] = {}
        self.managed: dict[str, bool] = {}  # networks whose weights another library manages
        self.nodes: dict[Any, str] = {}  # of calls of those
        self.blocked: list[str] = []
        self.finite = FiniteStages()
        self.moving = False
        self.attached: set[str] = set()
        self.detached: list[str] = []  # in calls that may not use the weights that want a gradient
        self._sizes: dict[Any, int] = {}
        self._held: HeldGraphs | None = None

    def follow(self, scheduler: Any) -> None:
        """Count the steps of the copy's scheduler, where they matter."""
        self.scheduler = scheduler
        if not isinstance(self.method, Truncated):
            return  # some pipelines ask for their scheduler's very class
        cls = type(scheduler)
        step = getattr(cls, "step", None)
        if step is None:
            return

        @functools.wraps(step)  # pipelines look at its signature
        def counted(scheduler: Any, *args: Any, **kwargs: Any) -> Any:
            self.steps += 1
            found = step(scheduler, *args, **kwargs)
            self.finite.step(self.steps, cls.__name__, found)
            return found

        # A class and no attribute: some pipelines make copies of their scheduler, and each copy's
        # method must be its own.
        scheduler.__class__ = type(cls.__name__, (cls,), {"step": counted})

    @contextmanager
    def around(self, pipe: Any) -> Iterator[None]:
        """Around a call of the pipeline's copy; the pipeline's networks come out as they went in.

        A pipeline that swaps attention processors has its networks to itself in the block: other
        threads wait.
        """
        parts = [part for part in _all_parts(pipe) if isinstance(part, nn.Module)]
        self.moving = moves_weights(parts)
        with ExitStack() as stack:
            if swaps_processors(pipe):
                stack.enter_context(alone_with(parts))
            stack.enter_context(left_as_found(parts))
            stack.enter_context(keeping_weights(self.moving))
            yield

    def close(self) -> None:
        """Let go of the tensors that were needed while the pipeline ran."""
        for calls in self.calls.values():
            calls.close()
        self.nodes = {}

    @property
    def started(self) -> bool:
        """Whether a network has run."""
        return self.finite.started

    def wrap(self, name: str, network: nn.Module) -> Callable[..., Any]:
        """What the copy of the pipeline calls in place of `network`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with outside_function_mode(), lock_of(network):
                found = self._call(name, network, args, kwargs)
            self.finite.network(name, (args, kwargs), found)
            return found

        return call

    def _call(self, name: str, network: nn.Module, args: Any, kwargs: Any) -> Any:
        run = counted(network)
        if not torch.is_grad_enabled():
            if self.grad and self._wanted(network, args, kwargs):
                self.blocked.append(name)
            return run(*args, **kwargs)
        if self.moving:
            check_frozen(name, network)
        if isinstance(self.method, Backprop):
            return run(*args, **kwargs)
        if isinstance(self.method, Truncated) and self._before_the_last(self.method.last):
            with torch.no_grad():
                return run(*args, **kwargs)
        if name not in self.managed:
            self.managed[name] = who_manages(network) is not None
        if self.managed[name]:
            return self._checkpointed(name, network, args, kwargs)
        if name not in self.calls:
            parts = ChangingParts(network)
            self.calls[name] = TreeRecomputation(name, run, lambda: self._repeating(network, parts))
        held = self._held_graphs(network)
        found = self.calls[name](args, kwargs, held, self._size(name, network, args, kwargs, held))
        if _any_requires_grad(found):
            self.attached.add(name)
        elif _any_requires_grad((args, kwargs)):
            self.blocked.append(name)
        elif self._wanted(network, args, kwargs):
            self.detached.append(name)
        return found

    def _checkpointed(self, name: str, network: nn.Module, args: Any, kwargs: Any) -> Any:
        """A call that autograd repeats, with the hooks of the library that manages the weights."""
        run, again = counted(network), self._repeating(network, ChangingParts(network))()
        # Some pipelines write each new state into the tensor of the former one.
        args, kwargs = tree_map_only(Tensor, Tensor.clone, (tuple(args), dict(kwargs)))
        found = checkpoint(
            run, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), again), **kwargs
        )
        leaves = tree_flatten(found)[0]
        outputs = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
        if outputs:
            self.nodes[get_gradient_edge(outputs[0]).node] = name
            self.attached.add(name)
        elif self._wanted(network, args, kwargs):
            self.detached.append(name)
        return found

    def _repeating(self, network: nn.Module, parts: ChangingParts) -> Callable[[], Any]:
        """What makes a context in which the network is as it is now."""
        state, moving = parts.now(), self.moving

        @contextmanager
        def again() -> Iterator[None]:
            with lock_of(network), state.again(), keeping_weights(moving):
                yield

        return again

    def _wanted(self, network: nn.Module, args: Any, kwargs: Any) -> bool:
        wanted = any(p.requires_grad for p in network.parameters())
        return wanted or _any_requires_grad((args, kwargs))

    def _before_the_last(self, last: int) -> bool:
        """Whether the sampler is before its last `last` steps."""
        timesteps = getattr(self.scheduler, "timesteps", None)
        if timesteps is None:
            raise UnsupportedError(
                "Truncated counts the steps of the pipeline's scheduler, and this one has none"
            )
        return self.steps < len(timesteps) - last

    def _held_graphs(self, network: nn.Module) -> HeldGraphs:
        if self._held is None:
            budget = self.method.memory_budget if isinstance(self.method, Checkpoint) else None
            if budget == "auto":
                device = next((p.device for p in network.parameters()), torch.device("cpu"))
                budget = int(AUTO_SHARE * free_bytes(device))
            self._held = HeldGraphs(budget or 0)
        return self._held

    def _size(self, name: str, network: nn.Module, args: Any, kwargs: Any, held: Any) -> int:
        if held.budget == 0:
            return 0
        flat = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        key = (name, *((tuple(x.shape), x.dtype) for x in flat))
        if key not in self._sizes:
            self._sizes[key] = max(1, graph_bytes(lambda *_: network(*args, **kwargs), *flat))
        return self._sizes[key]

    def check_reached(self, results: Sequence[Any], noise: Tensor | None) -> None:
        """Check that noise, and each call of a network that wants a gradient, gets one of a result.

        Some pipelines return sound beside the video, and networks of its own make that.

        Raises:
            UnsupportedError: it does not; the message names it.

        """
        self.blocked += [name for name in self.detached if name not in self.attached]
        if self.blocked:
            raise UnsupportedError(
                f"the pipeline calls its network {self.blocked[0]!r} without gradients "
                f"({len(self.blocked)} calls), so the gradient would be wrong; differentiate what "
                "does not depend on it, or run the pipeline under torch.no_grad"
            )
        wanted = dict(self.nodes)
        wanted |= {node: name for name, calls in self.calls.items() for node in calls.nodes}
        wants_noise = self.grad and noise is not None and noise.requires_grad
        if not (wanted or wants_noise):
            return
        seen = _graph_of(results)
        if noise is not None and wants_noise and get_gradient_edge(noise).node not in seen:
            raise UnsupportedError(
                "the noise gets no gradient: the pipeline prepares its latents without gradients, "
                "or detaches them"
            )
        lost = [name for node, name in wanted.items() if node not in seen]
        if lost:
            raise UnsupportedError(
                f"{len(lost)} of {len(wanted)} calls of the networks get no gradient "
                f"({', '.join(sorted(set(lost)))}): the pipeline detaches what they made"
            )


def _all_parts(pipe: Any) -> Iterator[Any]:
    """The components of a pipeline and of those inside it."""
    for part in pipe.components.values():
        if isinstance(part, DiffusionPipeline):
            yield from _all_parts(part)
        yield part


def _graph_of(results: Sequence[Any]) -> set[Any]:
    """All nodes that a backward pass from `results` runs."""
    stack, seen = [x.grad_fn for x in results if isinstance(x, Tensor)], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack.extend(parent for parent, _ in node.next_functions)
    return seen


def _any_requires_grad(tree: Any) -> bool:
    return any(isinstance(x, Tensor) and x.requires_grad for x in tree_flatten(tree)[0])
