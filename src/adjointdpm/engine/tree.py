"""Nested tuples, lists and dicts of tensors: the conditioning, as the gradient methods see it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

Tree = Any  # None, a tensor, or a tuple, list or dict of trees


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of `tree`, in a fixed order."""
    found: list[Tensor] = []
    tree_map(lambda tensor: found.append(tensor) or tensor, tree)
    return found


def tree_map(fn: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """`tree` with every tensor replaced by `fn(tensor)`; what is not a tensor stays."""
    if isinstance(tree, Tensor):
        return fn(tree)
    if isinstance(tree, dict):
        # In the keys' own order whatever that of insertion, so that two dicts with the same keys
        # pair up; the result keeps insertion order.
        mapped = {key: tree_map(fn, tree[key]) for key in sorted(tree, key=_order)}
        return {key: mapped[key] for key in tree}
    if isinstance(tree, tuple | list):
        items = [tree_map(fn, value) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return tree


def paths(tree: Tree) -> list[str]:
    """Where the tensors of `tree` are, in the order of `leaves`: "['text'][0]"."""
    if isinstance(tree, Tensor):
        return [""]
    if isinstance(tree, dict):
        branches = [(key, tree[key]) for key in sorted(tree, key=_order)]
    else:
        branches = list(enumerate(tree)) if isinstance(tree, tuple | list) else []
    return [f"[{key!r}]{path}" for key, branch in branches for path in paths(branch)]


def others(tree: Tree) -> list[Any]:
    """What `tree` holds besides tensors and None."""
    if isinstance(tree, dict | tuple | list):
        return [
            item
            for branch in (tree.values() if isinstance(tree, dict) else tree)
            for item in others(branch)
        ]
    return [] if tree is None or isinstance(tree, Tensor) else [tree]


def _order(key: object) -> tuple[str, str]:
    return type(key).__name__, repr(key)


def replace_leaves(tree: Tree, tensors: list[Tensor]) -> Tree:
    """`tree` with its tensors replaced by `tensors`, in the order of `leaves`."""
    remaining = iter(tensors)
    return tree_map(lambda _: next(remaining), tree)
