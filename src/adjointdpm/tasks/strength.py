"""How much of what was learned is kept: the scale of a change, chosen by a guard.

What was learned can be taken in part: start + s · change. From s = 0, the untouched weights or the
word that a token started from, to a little more than what was learned, the metric gets better and
content gets lost: this curve is what the effect costs. It is drawn on pictures of training prompts
that no step and no look has seen.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from adjointdpm.errors import InvalidInputError
from adjointdpm.metrics import Metric
from adjointdpm.optimization.guard import Guard
from adjointdpm.optimization.prediction_drift import PredictionDrift
from adjointdpm.optimization.renderer import Renderer
from adjointdpm.tasks.evaluation import prompt_spread
from adjointdpm.variables import Example, Variable

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
FURTHER = (1.5, 2.0)  # are tried in turn, where the largest so far is the best
_NEARLY = 0.95  # of the largest gain: a smaller strength that reaches it is better, and costs less

Row = dict[str, Any]  # a point of the curve


def settle_strength(
    render: Renderer,
    variable: Variable,
    metric: Metric,
    examples: Sequence[Example],
    guard: Guard | None,
    wanted: float | None = None,
) -> dict[str, Any]:
    """Draw the curve, and leave the variable at the strength that was chosen.

    Args:
        render: draws.
        variable: holds what was learned.
        metric: what it was learned for.
        examples: what is drawn at every strength.
        guard: bounds the choice. Without one, all of what was learned is kept.
        wanted: a strength that a person chose; the curve then is that point and the untouched one.

    Returns:
        "chosen"; "by": "you", "guard" or "default"; "curve": for each strength its mean "metric",
        "guard", "diversity" relative to strength 0, and "kl", the drift of predictions;
        "guard_name", "guard_sign" (−1 for a reward, whose values are negated) and
        "guard_limit", where there is a guard.

    """
    learned = {name: tensor.detach().clone() for name, tensor in variable.tensors().items()}
    strengths = STRENGTHS if wanted is None else sorted({0.0, wanted})
    guard = guard and guard.for_choice()
    guard = _on_these(render, variable, examples, guard)
    measure = _measure(render, variable, metric, examples, guard)
    curve: list[Row] = []
    further = FURTHER if wanted is None and guard is not None else ()

    def draw(strength: float) -> None:
        variable.load_tensors(learned)
        variable.load_tensors(variable.at_strength(strength))
        variable.project()
        curve.append({"strength": strength} | measure())
        curve.sort(key=lambda row: row["strength"])

    for strength in (*strengths, *further):
        if strength in further and guard and _best(curve, guard)[0] != curve[-1]["strength"]:
            break
        draw(strength)
    if further and guard and (between := _half_way(curve, guard)):
        draw(between)
    _divide_by_first(curve, "spread", "diversity")
    found: dict[str, Any] = {"examples": len(examples), "curve": curve}
    if wanted is not None:
        chosen, by = wanted, "you"
    elif guard is None:
        chosen, by = 1.0, "default"
    else:
        (chosen, guard), by = _best(curve, guard), "guard"
    if guard is not None:
        found |= {
            "guard_name": guard.metric.name,
            "guard_sign": guard.metric.sign,
            "guard_limit": guard.limit(curve[0]),
        }
    for row in curve:
        row.pop("guard_error", None)
    variable.load_tensors(learned)
    variable.load_tensors(variable.at_strength(chosen))
    variable.project()
    return found | {"chosen": chosen, "by": by}


def _half_way(curve: Sequence[Row], guard: Guard) -> float | None:
    """Between what was chosen and the next strength, which loses too much; None if it does not."""
    chosen, decided = _best(curve, guard)
    larger = [row for row in curve if row["strength"] > chosen]
    if not chosen or not larger or decided.accepts(larger[0], curve[0]):
        return None
    return (chosen + larger[0]["strength"]) / 2


def _best(curve: Sequence[Row], guard: Guard) -> tuple[float, Guard]:
    """The strength that gains most, of those that the guard takes; else the guard's best.

    Where its aim leaves nothing but strength 0, its bound decides.

    Returns:
        The strength, and the guard with the bound that decided.

    """
    strict = replace(guard, bound=guard.bound if guard.aim is None else guard.aim)
    aimed, taken = _best_taken(curve, strict), _best_taken(curve, guard)
    if aimed:
        return aimed, strict
    if taken is None:
        least = min(curve, key=lambda row: (row["guard"], row["metric"], row["strength"]))
        return least["strength"], guard
    return taken, guard


def _best_taken(curve: Sequence[Row], guard: Guard) -> float | None:
    """The least strength that gains nearly the most of those that the guard takes.

    None if it takes none.
    """
    taken = [row for row in curve if guard.accepts(row, curve[0])]
    if not taken:
        return None
    gains = {row["strength"]: curve[0]["metric"] - row["metric"] for row in taken}
    if (most := max(gains.values())) <= 0:
        return min(gains)
    return min(strength for strength, gain in gains.items() if gain >= _NEARLY * most)


def _on_these(
    render: Renderer, variable: Variable, examples: Sequence[Example], guard: Guard | None
) -> Guard | None:
    """The guard, told of the untouched model on these examples if strength 0 is something else."""
    if guard is None or guard.untouched is None:
        return guard
    prompts = [example.prompt for example in examples]
    with variable.disabled():
        images = render.look(examples)
    return replace(guard, untouched=_guarded(render, guard, images, prompts)["guard"])


def _measure(
    render: Renderer,
    variable: Variable,
    metric: Metric,
    examples: Sequence[Example],
    guard: Guard | None,
) -> Callable[[], Row]:
    """What measures the variable as it is."""
    prompts = [example.prompt for example in examples]
    drift = _drift(render, variable)

    def measure() -> Row:
        with drift.watching("strength") if drift else nullcontext() as calls:
            images = render.look(examples, variable)
        row: Row = {
            "metric": render.score(metric, images, prompts).mean().item(),
            "spread": prompt_spread(images, prompts),
            "kl": drift.value(calls) if drift and calls else None,
        }
        return row | (_guarded(render, guard, images, prompts) if guard else {})

    return measure


def _drift(render: Renderer, variable: Variable) -> PredictionDrift | None:
    """What compares predictions; None where no network changes, as with a token."""
    try:
        return PredictionDrift(render.model.pipe, variable)
    except InvalidInputError:
        return None


def _guarded(render: Renderer, guard: Guard, images: Tensor, prompts: Sequence[str]) -> Row:
    scores = render.score(guard.metric, images, prompts)
    error = scores.std().item() / len(scores) ** 0.5 if len(scores) > 1 else 0.0
    return {"guard": scores.mean().item(), "guard_error": error}


def _divide_by_first(curve: Sequence[Row], name: str, share: str) -> None:
    """Replace a quantity by its share of what it is on the untouched model."""
    first = curve[0][name]
    for row in curve:
        value = row.pop(name)
        row[share] = None if first is None else value / max(first, 1e-8)
