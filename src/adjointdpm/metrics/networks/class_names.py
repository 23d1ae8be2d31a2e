"""Which outputs of a classifier a word or a number means."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from adjointdpm.errors import InvalidInputError, ModelError, UnknownNameError

Wanted = int | str | Sequence[int | str]
Groups = dict[str, tuple[int, ...]]  # a classifier's outputs by the name of what they show


def class_groups(network: nn.Module) -> Groups:
    """The indices that each name in a network's attribute `classes` stands for.

    A network without that attribute has no names.

    Args:
        network: its `classes` is a list of names in the order of its outputs, where a repeated name
            stands for all its places; or a mapping from names to an index or several.

    Raises:
        ModelError: `classes` is neither.

    """
    known = getattr(network, "classes", ())
    if isinstance(known, Mapping):
        found = {
            name: (indices,) if isinstance(indices, int) else indices
            for name, indices in known.items()
        }
    elif isinstance(known, Sequence) and not isinstance(known, str):
        found = {
            name: tuple(i for i, other in enumerate(known) if other == name)
            for name in dict.fromkeys(known)
        }
    else:
        raise ModelError(
            f"the network's attribute classes is {known!r}; make it a list of names, or a mapping "
            f"from names to indices"
        )
    for name, indices in found.items():
        if (
            not isinstance(name, str)
            or not isinstance(indices, Sequence)
            or not indices
            or not all(map(_is_index, indices))
        ):
            raise ModelError(
                f"the network's classes give {name!r} the value {indices!r}; a name stands for an "
                f"index from 0, or for several"
            )
    return {name: tuple(indices) for name, indices in found.items()}


def without_overlap(
    groups: Mapping[str, Sequence[int]], describe: Callable[[str], str] = repr
) -> Groups:
    """Leave each class to one group, the narrowest of those that have it.

    Where "owl" and "bird" are both known, an owl is an owl.

    Args:
        groups: indices by name.
        describe: what an error calls a group, given its name.

    Raises:
        InvalidInputError: two groups of one size share a class, so that none is narrower; or
            narrower ones leave a group nothing.

    """
    owner: dict[int, str] = {}
    for name, indices in sorted(groups.items(), key=lambda group: len(set(group[1]))):
        for index in indices:
            rival = owner.setdefault(index, name)
            if rival != name and len(set(groups[rival])) == len(set(indices)):
                raise InvalidInputError(
                    f"{describe(rival)} and {describe(name)} cannot be told apart: class {index} "
                    f"is in both, and neither is narrower"
                )
        if name not in owner.values():
            inside = dict.fromkeys(owner[index] for index in indices)
            raise InvalidInputError(
                f"{describe(name)} has no class of its own, beside "
                f"{' and '.join(map(describe, inside))}"
            )
    return {
        name: tuple(index for index in indices if owner[index] == name)
        for name, indices in groups.items()
    }


def class_indices(network: nn.Module, wanted: Wanted) -> tuple[int, ...]:
    """The indices of the classes wanted, in ascending order and without repetition.

    Args:
        network: names are understood if it has an attribute `classes`, see `class_groups`.
        wanted: an index, a name, several of them, or several in one text, as in "cat+dog" or
            "281+282".

    Raises:
        UnknownNameError: the network has no such name, or no names.
        InvalidInputError: nothing wanted, or a negative index.
        ModelError: the network's `classes` cannot be read.

    """
    names = class_groups(network)
    found: set[int] = set()
    for part in (
        wanted.split("+")
        if isinstance(wanted, str)
        else wanted
        if isinstance(wanted, Sequence)
        else [wanted]
    ):
        word = str(part).strip()
        if word in names:
            found.update(names[word])
        elif word.isdecimal():
            found.add(int(word))
        elif isinstance(part, str) and word:
            hint = (
                f"choose one of {', '.join(names)}, or an index"
                if names
                else "the network has no names; give an index"
            )
            raise UnknownNameError(f"class {word!r} is unknown; {hint}")
        else:
            raise InvalidInputError(f"class {part!r} must be a name or an index from 0")
    if not found:
        raise InvalidInputError(f"classes {wanted!r}: name at least one")
    return tuple(sorted(found))


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
