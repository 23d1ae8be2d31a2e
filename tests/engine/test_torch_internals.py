"""Torch's private interface still does what this library takes it to do.

A version of torch that changes one of these fails here, by the name of the function, and not
somewhere in a gradient.
"""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import adjointdpm
from adjointdpm.engine import torch_internals as internals


def test_tensors_of_a_transform_are_recognised():
    seen = []

    def function(x):
        seen.append(internals.in_functorch_transform(x))
        return x.sum()

    torch.func.grad(function)(torch.ones(2))
    torch.vmap(function)(torch.ones(2, 2))
    assert seen == [True, True]
    assert not internals.in_functorch_transform(torch.ones(2))


def test_the_innermost_saved_tensor_hooks_are_found():
    assert internals.saved_tensor_hooks() is None
    outer, inner = (lambda x: x, lambda x: x), (lambda x: (x, 1), lambda pair: pair[0])
    with (
        torch.autograd.graph.saved_tensors_hooks(*outer),
        torch.autograd.graph.saved_tensors_hooks(*inner),
    ):
        assert internals.saved_tensor_hooks() == inner
    assert internals.saved_tensor_hooks() is None


class Probe(torch.autograd.Function):
    """Records what the backward pass knows about itself."""

    @staticmethod
    def forward(ctx, found, a, b):
        ctx.found = found
        ctx.nodes = [torch.autograd.graph.get_gradient_edge(x).node for x in (a, b)]
        return a + b

    @staticmethod
    def backward(ctx, gradient):
        ctx.found["retains"] = internals.backward_retains_graph()
        ctx.found["runs"] = [internals.will_run(node) for node in ctx.nodes]
        return None, gradient, gradient


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("asked", [(True, False), (False, True), (True, True)])
def test_a_backward_pass_says_whether_it_keeps_its_graph_and_what_it_needs(retain, asked):
    found = {}
    leaves = [torch.ones(2, requires_grad=True) for _ in range(2)]
    a, b = (leaf.view_as(leaf) for leaf in leaves)
    wanted = [leaf for leaf, wish in zip(leaves, asked, strict=True) if wish]
    torch.autograd.grad(Probe.apply(found, a, b).sum(), wanted, retain_graph=retain)
    assert found == {"retains": retain, "runs": list(asked)}


def test_nodes_are_numbered_in_order_of_creation():
    x = torch.ones(2, requires_grad=True)
    early = x * 2
    first = internals.next_node_number()
    late = early.exp()
    numbers = [internals.node_number(y.grad_fn) for y in (early, late)]
    assert numbers[0] < first < numbers[1] < internals.next_node_number()


def test_changes_in_place_are_counted():
    x = torch.zeros(2)
    before = internals.change_count(x)
    x.add_(1)
    x.view(2, 1).mul_(2)
    assert internals.change_count(x) == before + 2
    with torch.inference_mode():
        assert internals.change_count(torch.zeros(2).add_(1)) == 0


def test_views_know_their_base():
    x = torch.zeros(2, 2)
    assert internals.base_of(x[0]) is x
    assert internals.base_of(x) is x


def test_compiled_modules_are_recognised():
    plain, wrapped, compiled = nn.Linear(2, 2), torch.compile(nn.Linear(2, 2)), nn.Linear(2, 2)
    compiled.compile()
    found = [internals.is_compiled(module) for module in (plain, wrapped, compiled)]
    assert found == [False, True, True]
    assert internals.uncompiled(torch.compile(plain)) is plain
    assert internals.uncompiled(plain) is plain


def test_no_other_file_uses_the_private_interface():
    root = Path(adjointdpm.__file__).parent
    for path in root.rglob("*.py"):
        if path.name == "torch_internals.py":
            continue
        used = {
            node.attr
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute)
        }
        assert not used & {"_C", "_version", "_sequence_nr"}, path


def test_a_function_mode_does_not_act_outside_of_it():
    class Counting(torch.overrides.TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Counting.count += 1
            return func(*args, **(kwargs or {}))

    with internals.outside_function_mode():
        torch.zeros(1)
    with Counting():
        with internals.outside_function_mode():
            torch.zeros(1)
        before = Counting.count
        torch.zeros(1)
    assert (before, Counting.count) == (0, 1)
