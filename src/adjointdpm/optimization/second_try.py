"""A second try for a run that has gained nothing so far: larger steps, or the exact gradient.

Some noises have to go far before the picture changes at all: where the metric has stayed the same,
the run goes on from where it is, with larger steps. A gradient through the last steps only is
cheap, but does not see what earlier steps decide: where the metric has moved and not got better,
the run goes on from the best state, with the exact gradient and full steps. If it has had that
from the start, it goes on as it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Try = Literal["larger steps", "the exact gradient"]
MARK = "second_try"  # in the record after which it begins: which of the two
LARGER = 3.0  # steps, as a multiple of the others
_STAYED = 0.05  # change of the metric, in units of its spread over pictures, that counts as none
_LOOKS = 3  # the newest, which must show none


def second_try(
    history: Sequence[Mapping[str, Any]], after: int, spread: float, *, exact: bool = False
) -> Try | None:
    """What to try now, after the newest of these records; None to go on.

    Args:
        history: all records so far.
        after: the iteration after which this is decided, once; 0: never.
        spread: of the metric over pictures. The objective must have fallen by as much until then.
        exact: whether the gradient is exact already.

    """
    if not after or history[-1]["iteration"] != after:
        return None
    looks = [row["validation"] for row in history if "validation" in row]
    if looks[0]["objective"] - min(look["objective"] for look in looks) >= spread:
        return None
    moved = max(abs(look["metric"] - looks[0]["metric"]) for look in looks[1:][-_LOOKS:])
    if moved < _STAYED * spread:
        return "larger steps"
    return None if exact else "the exact gradient"


def tried_again(history: Sequence[Mapping[str, Any]]) -> tuple[int, Try | None]:
    """After which iteration a run began its second try, and with what; 0 and None without one."""
    begun = (row for row in history if row.get(MARK))
    return next(((row["iteration"], row[MARK]) for row in begun), (0, None))
