"""Calls that keep only their inputs, and run again in the backward pass.

Each call is one autograd node. `torch.utils.checkpoint` handles every tensor that autograd saves
within the call in Python, which costs a network of a few million weights a sixth of its time. Our
node must know instead what the call depends on: its arguments, and the leaf tensors in which its
graph ends, mainly weights.
"""

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from adjointdpm.engine.gradients.autograd.captured_tensors import (
    Outputs,
    captured_leaves,
    check_wanted,
    unknown_leaves,
)
from adjointdpm.engine.gradients.autograd.replayed_randomness import Draws
from adjointdpm.engine.inplace_changes import BETWEEN, change_counts, check_unchanged
from adjointdpm.engine.torch_internals import change_count, is_compiled, will_run
from adjointdpm.engine.tree import leaves, replace_leaves, tree_map
from adjointdpm.errors import CapturedTensorError, ChangedTensorError

Run = Callable[[Sequence[Tensor]], Outputs]
Graphs = list[tuple[Sequence[Tensor], Outputs]]  # leaves that stand for the inputs, and outputs


class Recomputation:
    """The calls of one solve that are run again in its backward pass.

    The second run has the autocast, random numbers and training mode of the first. Gradients of
    gradients are recomputed in the same way. What a call depends on must not be changed in place
    before its second run.

    Args:
        module: what the calls run, if it is a module. Then its first call shows for all of them
            what they depend on besides arguments and parameters, and the others build no graph
            before the backward pass. A compiled module is always called in the grad mode for which
            it was compiled.

    Attributes:
        weights: the module's parameters, trained and frozen.
        compiled: whether `torch.compile` made the module, or a part of it.

    """

    def __init__(self, module: nn.Module | None = None) -> None:
        self.weights = [] if module is None else list(module.parameters())
        self.compiled = module is not None and any(is_compiled(part) for part in module.modules())
        self._owner = module
        self._module = None if self.compiled else module
        self.known: list[Tensor] | None = (
            None  # captured leaves and trained parameters of the module, after its first call
        )
        self._sources: dict[int, tuple[Tensor, Tensor]] = {}
        self._draws: Draws | None = None
        self._calls = 0

    def __call__(self, fn: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """`fn(*args, **kwargs)`, attached to the graphs of all that it depends on.

        Raises:
            CapturedTensorError: `fn` uses a tensor that requires grad and is neither an argument
                nor a leaf.

        """
        return self._call(fn, args, kwargs, hold=False)

    def held(self, fn: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """As a call, but the first backward pass uses the call's own graph; others run it again.

        Its gradients outlive the next call (see `keep`), unlike those of `fn(*args, **kwargs)`.
        """
        return self._call(fn, args, kwargs, hold=True)

    def _call(
        self, fn: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], hold: bool
    ) -> Tensor:
        tensors = leaves((args, kwargs))
        hole = torch.empty(0)
        tree = tree_map(
            lambda _: hole, (args, kwargs)
        )  # the inputs themselves must not outlive the graph
        if self._draws is None:
            device = tensors[0].device if tensors else torch.device("cpu")
            self._draws = Draws(device, fn if self._owner is None else self._owner)

        number, self._calls = self._calls, self._calls + 1
        kinds = dict.fromkeys(["cpu", *(tensor.device.type for tensor in tensors)])
        casts = [autocast_now(kind) for kind in kinds]
        draws = self._draws

        def run(given: Sequence[Tensor]) -> Outputs:
            positional, named = replace_leaves(tree, list(given))
            with casts[0](), casts[-1]():
                return (fn(*positional, **named),)

        def again(given: Sequence[Tensor]) -> Outputs:
            with draws.repeated(number):
                return run(given)

        with draws.recorded(number):
            if hold or self.known is None:
                (output,) = self.attach(run, again, tensors, [] if hold else None)
            else:
                (output,) = self.attach_known(run, again, tensors)
        assert output is not None
        return output

    def attach(
        self, run: Run, again: Run, tensors: Sequence[Tensor], graphs: Graphs | None = None
    ) -> Outputs:
        """`run(tensors)` as one node whose backward pass calls `again`.

        Where `graphs` is a list, the graph is put into it, and the backward pass uses it if it is
        still there.
        """
        given = [_stand_in(tensor) for tensor in tensors]

        def first() -> Outputs:
            outputs = run(given)
            if graphs is not None:
                graphs.append((given, outputs))
            return outputs

        outputs, found = captured_leaves(first, [])
        reached, own = {id(leaf) for leaf in found}, {id(leaf) for leaf in given}
        captured = [leaf for leaf in found if id(leaf) not in own]
        if self._module is not None and run is not again:
            parameters = [p for p in self._module.parameters() if p.requires_grad]
            seen = {id(p) for p in parameters}
            self.known = [*parameters, *(leaf for leaf in captured if id(leaf) not in seen)]
        # What the graph does not end in gets no gradient, as if it had not been handed over.
        used = [
            tensor if id(leaf) in reached else tensor.detach()
            for tensor, leaf in zip(tensors, given, strict=True)
        ]
        inputs = [self._source(tensor) for tensor in (*used, *captured)]
        if not any(tensor.requires_grad for tensor in inputs):
            return outputs
        held = [] if graphs is None else graphs
        return _Again.apply(self, again, outputs, tensors, captured, held, *inputs)  # pyright: ignore[reportReturnType]

    def attach_known(self, run: Run, again: Run, tensors: Sequence[Tensor]) -> Outputs:
        """As `attach` without a graph, since the dependencies are known; `again` checks them."""
        known = self.known or []

        def checked(given: Sequence[Tensor]) -> Outputs:
            outputs = again(given)
            # A parameter that was made to require grad since gets no gradient, as with autograd.
            if torch.is_grad_enabled() and unknown_leaves(outputs, [*given, *known, *self.weights]):
                raise CapturedTensorError(
                    "the denoiser uses a captured tensor that requires grad, but not at its first "
                    "time; make it a parameter of the denoiser, hand it over in cond, or use "
                    "Backprop()"
                )
            return outputs

        with torch.no_grad():
            outputs = run([tensor.detach() for tensor in tensors])
        inputs = [self._source(tensor) for tensor in (*tensors, *known)]
        if not any(tensor.requires_grad for tensor in inputs):
            return outputs
        return _Again.apply(self, checked, outputs, tensors, known, [], *inputs)  # pyright: ignore[reportReturnType]

    def keep(self, gradients: Sequence[Tensor | None]) -> Outputs:
        """Make gradients outlive the next call.

        On a GPU those of a compiled module are copied, since its CUDA graph writes over them.
        """
        return tuple(
            g.clone() if g is not None and g.is_cuda and self.compiled else g for g in gradients
        )

    def _source(self, tensor: Tensor) -> Tensor:
        """`tensor`, or a view of it if it is a leaf.

        Autograd can say whether it needs the gradient of a node, but not of a leaf.
        """
        if not (tensor.requires_grad and tensor.is_leaf):
            return tensor
        if id(tensor) not in self._sources:
            self._sources[id(tensor)] = tensor, tensor.view_as(tensor)
        return self._sources[id(tensor)][1]


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        owner: Recomputation,
        again: Run,
        outputs: Outputs,
        tensors: Sequence[Tensor],
        captured: Sequence[Tensor],
        graphs: Graphs,
        *inputs: Tensor,
    ) -> Outputs:
        ctx.owner, ctx.again, ctx.captured, ctx.graphs = owner, again, captured, graphs
        ctx.watched = [*owner.weights, *captured]
        ctx.versions = change_counts(ctx.watched)
        ctx.nodes = [
            get_gradient_edge(tensor).node if tensor.requires_grad else None for tensor in inputs
        ]
        ctx.passed_on = set()  # of ints
        # Not the views: those of a tensor that was changed since cannot even be accessed.
        ctx.makers = [_maker(tensor) for tensor in tensors]
        kept = [t for t, maker in zip(tensors, ctx.makers, strict=True) if maker is None]
        ctx.save_for_backward(*kept)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        check_unchanged(ctx.watched, ctx.versions, BETWEEN)
        tensors = _inputs(ctx)
        wanted = [i for i, node in enumerate(ctx.nodes) if node is not None and will_run(node)]
        # Of a call's results, which all count as attached, some may depend on nothing learned.
        constant = {
            i
            for i, (tensor, maker) in enumerate(zip(tensors, ctx.makers, strict=True))
            if maker is not None and not tensor.requires_grad
        }
        wanted = [i for i in wanted if i not in constant]
        present = [i for i, gradient in enumerate(gradients) if gradient is not None]

        def pull(given: Sequence[Tensor], create_graph: bool = True) -> Outputs:
            inputs, cotangents = given[: len(tensors)], given[len(tensors) :]
            if ctx.graphs and not create_graph:
                inputs, outputs = ctx.graphs.pop()
            else:
                with torch.enable_grad():
                    outputs = ctx.again(inputs)
            pairs = [(outputs[i], c) for i, c in zip(present, cotangents, strict=True)]
            pairs = [
                (output, c) for output, c in pairs if output is not None and output.requires_grad
            ]
            sources = [*inputs, *ctx.captured]
            check_wanted(sources[i] for i in wanted)
            found = torch.autograd.grad(
                [output for output, _ in pairs],
                [sources[i] for i in wanted],
                [c for _, c in pairs],
                create_graph=create_graph,
                allow_unused=True,
            )
            return ctx.owner.keep(found)

        given = [*tensors, *(gradients[i] for i in present)]
        if torch.is_grad_enabled():
            found = ctx.owner.attach(pull, pull, given)
        else:
            found = pull([_stand_in(tensor) for tensor in given], create_graph=False)
        by_input = dict(zip(wanted, found, strict=True))
        return (
            None,
            None,
            None,
            None,
            None,
            None,
            *(by_input.get(i) for i in range(len(ctx.nodes))),
        )


@dataclass(frozen=True)
class _Maker:
    """The call that made a tensor: kept in its place where no one else keeps the tensor.

    What a ControlNet hands to its UNet is larger than a state by far, and there is one a step.
    """

    node: Any
    output: int
    tensor: weakref.ref[Tensor]
    version: int

    def unchanged(self) -> Tensor | None:
        """The tensor, if it is still there and as it was."""
        tensor = self.tensor()
        return tensor if tensor is not None and change_count(tensor) == self.version else None


def is_recomputed(tensor: Tensor) -> bool:
    """Whether a recomputed call made `tensor`, and can make it again."""
    return hasattr(tensor.grad_fn, "passed_on")


def _maker(tensor: Tensor) -> _Maker | None:
    """The recomputed call that made `tensor`, for the first call that takes it; None for others.

    If several calls take it, it is kept once, and not made again for each.
    """
    node: Any = tensor.grad_fn
    if not is_recomputed(tensor) or tensor.output_nr in node.passed_on:
        return None
    node.passed_on.add(tensor.output_nr)
    return _Maker(node, tensor.output_nr, weakref.ref(tensor), change_count(tensor))


def _inputs(ctx: Any) -> list[Tensor]:
    """What a call was given; what another call made of it is made again."""
    kept = iter(_saved(ctx))
    made: dict[Any, Outputs] = {}
    found: list[Tensor] = []
    for maker in ctx.makers:
        if maker is None:
            found.append(next(kept))
            continue
        tensor = maker.unchanged()
        if tensor is None:
            if maker.node not in made:
                made[maker.node] = _outputs_again(maker.node)
            tensor = made[maker.node][maker.output]
        assert tensor is not None
        found.append(tensor)
    return found


def _outputs_again(ctx: Any) -> Outputs:
    """Run a call again whose backward pass comes soon, and leave its graph for that."""
    check_unchanged(ctx.watched, ctx.versions, BETWEEN)
    if torch.is_grad_enabled():  # gradients of gradients
        return ctx.owner.attach(ctx.again, ctx.again, _inputs(ctx))
    if not ctx.graphs:
        given = [_stand_in(tensor) for tensor in _inputs(ctx)]
        with torch.enable_grad():
            outputs = ctx.again(given)
        if not will_run(ctx):
            return outputs
        ctx.graphs.append((given, outputs))
    outputs = ctx.graphs[-1][1]
    return tuple(None if o is None else o.detach().requires_grad_(o.requires_grad) for o in outputs)


def _saved(ctx: Any) -> Sequence[Tensor]:
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        raise ChangedTensorError(BETWEEN) from error


def _stand_in(tensor: Tensor) -> Tensor:
    """A leaf with the value of `tensor`, in which a graph can end."""
    return tensor.detach().requires_grad_(tensor.requires_grad)


def autocast_now(kind: str) -> Callable[[], AbstractContextManager[Any]]:
    """Return a function that makes contexts with the autocast of now, without its cache.

    A weight in the cache belongs to the graph of the call that cast it, and the gradients of all
    calls would be summed in bfloat16. Without autocast, then and now, nothing is set: a compiled
    network would be compiled again for another setting of the cache.
    """
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)

    def context() -> AbstractContextManager[Any]:
        if not enabled and not torch.is_autocast_enabled(kind):
            return nullcontext()
        return torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False)

    return context
