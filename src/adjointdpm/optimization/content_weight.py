"""How much the content counts beside the metric, whatever the metric's scale."""

from collections.abc import Callable

#: The spread of a metric, the standard deviation over untouched pictures, at which the weights of
#: the content count as they are given.
REFERENCE = 0.1
_LEAST = 0.25  # of the spread: what the metric must have gained before weights are lowered
_LEFT = 0.5  # of what the metric gained, that the content may cost after that

Values = dict[str, float]


def scaled(spread: float) -> float:
    """The factor of the content's weights that suits a metric of this spread.

    Metrics that differ in their unit alone then lead to the same pictures.
    """
    return spread / REFERENCE if spread else 1.0


def lowered(
    best: Values,
    now: Values,
    total: Callable[[Values], float],
    content: Callable[[Values], float],
    spread: float,
) -> float:
    """The factor by which the content's weights should fall.

    It is 1 unless the content costs all that the metric gained since the best state. Then a run
    would stand still although the effect can be reached.

    Args:
        best: values of the best state.
        now: values of the newest one.
        total: the objective of a state.
        content: what the content adds to it.
        spread: of the metric over untouched pictures.

    """
    cost = content(now) - content(best)
    gain = (total(best) - content(best)) - (total(now) - content(now))
    if gain < _LEAST * spread or cost < gain:
        return 1.0
    return _LEFT * gain / cost
