"""Arguments and results of a network, taken apart into tensors and put together again.

They are nested tuples, lists, dicts and output classes, and objects of plain Python classes, such
as caches of keys and values.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


@dataclass(frozen=True)
class Form:
    """What containers look like without their leaves.

    Args:
        spec: of the containers that torch knows.
        objects: for each leaf of those: None, or the class of a plain object and the form of its
            attributes.

    """

    spec: TreeSpec
    objects: tuple["tuple[type, Form] | None", ...]


def take_apart(tree: Any) -> tuple[list[Any], Form]:
    """The leaves of `tree`, tensors and others, and its form."""
    return _take_apart(tree, ())


def put_together(leaves: Sequence[Any], form: Form) -> Any:
    """The tree of these leaves, in new containers and new objects."""
    return _put_together(iter(leaves), form)


def write_back(changed: Any, original: Any) -> None:
    """Give the lists, dicts and plain objects in `original` the contents of those in `changed`.

    Both were made from the same form, before a network changed `changed`.
    """
    if original is changed or type(original) is not type(changed):
        return
    if isinstance(original, list):
        for old, new in zip(original, changed, strict=False):
            write_back(new, old)
        original[:] = _kept(original, changed)
    elif isinstance(original, tuple):
        for old, new in zip(original, changed, strict=False):
            write_back(new, old)
    elif isinstance(original, dict) or _is_plain(original):
        plain = not isinstance(original, dict)
        old, new = (vars(original), vars(changed)) if plain else (original, changed)
        for key in old.keys() & new.keys():
            write_back(new[key], old[key])
        kept = {key: _own(old.get(key), value) for key, value in new.items()}
        old.clear()
        old.update(kept)


def _kept(old: Sequence[Any], new: Sequence[Any]) -> list[Any]:
    padded = [*old, *[None] * len(new)]
    return [_own(before, now) for before, now in zip(padded, new, strict=False)]


def _own(old: Any, new: Any) -> Any:
    """A container that was there before, or what is new."""
    holds = isinstance(old, list | tuple | dict) or _is_plain(old)
    return old if holds and type(old) is type(new) else new


def _take_apart(tree: Any, around: tuple[int, ...]) -> tuple[list[Any], Form]:
    leaves, spec = tree_flatten(tree)
    found: list[Any] = []
    objects: list[tuple[type, Form] | None] = []
    for leaf in leaves:
        if _is_plain(leaf) and id(leaf) not in around:
            inner, form = _take_apart(vars(leaf), (*around, id(leaf)))
            found += inner
            objects.append((type(leaf), form))
        else:
            found.append(leaf)
            objects.append(None)
    return found, Form(spec, tuple(objects))


def _put_together(leaves: Iterator[Any], form: Form) -> Any:
    values = [next(leaves) if made is None else _made(leaves, *made) for made in form.objects]
    return tree_unflatten(values, form.spec)


def _made(leaves: Iterator[Any], cls: type, form: Form) -> Any:
    made = object.__new__(cls)
    vars(made).update(_put_together(leaves, form))
    return made


def _is_plain(value: Any) -> bool:
    """Whether a value is an object that its attributes describe in full, and that may change."""
    cls = type(value)
    new: Callable[..., Any] = cls.__new__
    return (
        hasattr(value, "__dict__")
        and new is object.__new__
        and cls.__setattr__ is object.__setattr__
        and not cls.__module__.startswith("torch")
        and not isinstance(value, Tensor | nn.Module | type)
        and not callable(value)
    )
