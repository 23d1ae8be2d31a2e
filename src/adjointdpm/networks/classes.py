"""Which outputs of a classifier a word or a number means."""

from collections.abc import Mapping, Sequence

from torch import nn

from adjointdpm.errors import InvalidInputError, UnknownNameError

Wanted = int | str | Sequence[int | str]


def class_indices(network: nn.Module, wanted: Wanted) -> tuple[int, ...]:
    """The indices of the classes wanted, in ascending order and without repetition.

    Args:
        network: if it has an attribute `classes`, a list of names or a mapping from names to indices, names are understood.
        wanted: an index, a name, several of them, or several in one text, as in "cat+dog" or "281+282".

    Raises:
        UnknownNameError: the network has no such name, or no names.
        InvalidInputError: nothing wanted, or a negative index.

    """
    known = getattr(network, "classes", ())
    names: Mapping[str, tuple[int, ...]] = known if isinstance(known, Mapping) else {name: (i,) for i, name in enumerate(known)}
    found: set[int] = set()
    for part in wanted.split("+") if isinstance(wanted, str) else wanted if isinstance(wanted, Sequence) else [wanted]:
        word = str(part).strip()
        if word in names:
            found.update(names[word])
        elif word.isdecimal():
            found.add(int(word))
        elif isinstance(part, str) and word:
            hint = f"choose one of {', '.join(names)}, or an index" if names else "the network has no names; give an index"
            raise UnknownNameError(f"class {word!r} is unknown; {hint}")
        else:
            raise InvalidInputError(f"class {part!r} must be a name or an index from 0")
    if not found:
        raise InvalidInputError(f"classes {wanted!r}: name at least one")
    return tuple(sorted(found))
