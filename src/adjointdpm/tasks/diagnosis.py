"""Why a run gains nothing, told early from what the loop has noted, and again at its end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adjointdpm.optimization.loop import Record
from adjointdpm.optimization.settings import Settings

EARLY = 4  # iterations after which a run is judged for the first time
_MOST_FLAT = 0.5  # share of pictures without a gradient that leaves too few to learn from
_TOO_SMALL = (
    0.003  # share of its natural size that something learned should change by in a whole run
)
_ENOUGH = 0.3  # share of its natural size after whose change pictures should look different
_FAR = 3.0  # the same, beyond which larger steps would not help
_TOO_LARGE = (
    1.0  # change in one step, in shares of its natural size, after which nothing is left of it
)
_SAME_PICTURE = 0.01  # mean change of a pixel in [0, 1] that nobody sees
_NOTHING = 0.05  # change of the metric, in units of its spread over pictures
_WORSE = 0.5  # rise of the objective in the same units that is no accident
ADVICE = "look whether the pipeline uses it: a wrong prompt, layer or text encoder?"


@dataclass(frozen=True)
class Diagnosis:
    """Why a run gains nothing.

    Args:
        cause: flat metric, no influence, step too small, step too large, content, guard, noise
            or unclear.
        what: what was seen, in a sentence.
        change: what to change, in a sentence.

    """

    cause: str
    what: str
    change: str

    def __str__(self) -> str:
        return f"{self.what} {self.change}"


@dataclass(frozen=True)
class Seen:
    """What was seen of pictures, beside what the history holds of them.

    Args:
        pictures: how many got a gradient.
        flat: at how many of these the metric's gradient was exactly 0.
        spread: standard deviation of the scores over different pictures.
        change: the largest mean absolute change of the validation pictures since the start, if they
            were drawn twice.
        acts: whether pictures can change, where that was tried before the run.

    """

    pictures: int = 0
    flat: int = 0
    spread: float = 0.0
    change: float | None = None
    acts: bool | None = None


def diagnose(
    history: Sequence[Record],
    seen: Seen,
    settings: Settings,
    advice: str = ADVICE,
    *,
    ended: bool = False,
) -> Diagnosis | None:
    """Say why nothing has been gained so far, or None if something was or it is too early.

    Args:
        history: the loop's records; each but the first with "moved", the root mean square change of
            what is learned since the start, in its natural units.
        seen: what was seen of pictures.
        settings: the loop's.
        advice: what to do if pictures do not depend on what is learned.
        ended: whether the loop has no more chance to lower the content's weight by itself.

    """
    looks = [record["validation"] for record in history if "validation" in record]
    steps = [record for record in history if record["iteration"] > 0]
    if not steps or not looks or _gains(looks, seen, settings.iterations / len(steps)):
        return None
    if seen.pictures and seen.flat / seen.pictures >= _MOST_FLAT:
        return _flat_metric(seen)
    if all(record["gradient_norm"] == 0 for record in steps):
        return Diagnosis(
            "no influence",
            "The metric's gradient ends before it reaches what is learned: the pictures do not "
            "depend on it.",
            _sentence(advice),
        )
    moved = max((record["moved"] for record in steps if "moved" in record), default=None)
    return (
        (_too_small(steps, moved, settings) if moved is not None else None)
        or (_same_pictures(moved, looks, seen, settings, advice) if moved is not None else None)
        or _too_large(steps, looks, seen, settings)
        or (_content(looks, seen, settings) if ended or not settings.relax else None)
    )


def diagnose_end(
    history: Sequence[Record],
    seen: Seen,
    settings: Settings,
    held_out: Mapping[str, Any],
    kept: int,
    advice: str = ADVICE,
) -> Diagnosis | None:
    """Say why a finished run gained nothing, or None if it gained.

    Args:
        history, seen, settings, advice: see `diagnose`.
        held_out: what was measured on held-out pictures: "change", and its "interval" if there are
            several.
        kept: the iteration whose state was kept; 0 is the start.

    """
    low, high = held_out.get("interval") or (held_out["change"], held_out["change"])
    if high < 0:
        return None
    if (found := diagnose(history, seen, settings, advice, ended=True)) is not None:
        return found
    looks = [record["validation"] for record in history if "validation" in record]
    if kept == 0 and (refused := _refused(looks, seen)) is not None:
        return refused
    freer = (
        f" A --preservation below {settings.preservation:g} lets pictures change more, and 0 lets "
        f"them show something else."
        if settings.preservation
        else ""
    )
    if _gains(looks, seen, 1.0):
        return Diagnosis(
            "noise",
            f"The change on held-out pictures, {held_out['change']:.3f}, is smaller than its own "
            f"noise: its 95 % interval goes from {low:.3f} to {high:.3f}.",
            "More --iterations make it larger; more and more different --prompts make it hold for "
            f"others.{freer}",
        )
    return Diagnosis(
        "unclear",
        "The objective stayed where it was, although steps were neither very small nor very large.",
        f"Try --lr {settings.lr / 3:.1g} and {settings.lr * 3:.1g}, and more --iterations.{freer}",
    )


def _gains(looks: Sequence[Mapping[str, float]], seen: Seen, times: float) -> bool:
    """Whether so many times the fall of the objective on validation pictures is something."""
    fall = looks[0]["objective"] - min(look["objective"] for look in looks)
    return fall * max(1.0, times) > _NOTHING * _unit(looks, seen)


def _unit(looks: Sequence[Mapping[str, float]], seen: Seen) -> float:
    """What is a large difference of this metric: its spread, or its size where there is none."""
    return seen.spread or abs(looks[0]["metric"]) or 1.0


def _flat_metric(seen: Seen) -> Diagnosis:
    same = " and gives them all the same score" if seen.spread == 0 else ""
    return Diagnosis(
        "flat metric",
        f"The metric has no gradient at {seen.flat} of {seen.pictures} pictures{same}: a clamp, a "
        f"threshold or a rounding that they have passed, or pictures that are black or white.",
        "Use a metric without such a limit, for instance the distance to what is wanted; if "
        "pictures became black or white, lower --lr.",
    )


def _too_small(steps: Sequence[Record], moved: float, settings: Settings) -> Diagnosis | None:
    """Steps that would not arrive anywhere by the end of the run."""
    iterations = max(settings.iterations, steps[-1]["iteration"])
    arrives = moved / steps[-1]["iteration"] * iterations
    went_back = any("step_scale" in record for record in steps)
    if arrives >= _TOO_SMALL or went_back:
        return None
    factor = 10 ** math.ceil(math.log10(_ENOUGH / max(arrives, 1e-12)))
    return Diagnosis(
        "step too small",
        f"Steps are too small: what is learned has changed by {moved:.1g} of its natural size in "
        f"{steps[-1]['iteration']} iterations.",
        f"Raise --lr from {settings.lr:g} to about {settings.lr * factor:.0e}.",
    )


def _too_large(
    steps: Sequence[Record],
    looks: Sequence[Mapping[str, float]],
    seen: Seen,
    settings: Settings,
) -> Diagnosis | None:
    """One step that leaves nothing of the start, or an objective that grows with the metric."""
    first = steps[0].get("moved", 0.0) if steps[0]["iteration"] == 1 else 0.0
    rises = looks[-1]["objective"] - looks[0]["objective"] > _WORSE * _unit(looks, seen)
    # Where the metric falls, it is the content's weight that is too large: see `_content`. A
    # patient run may have better states behind worse ones.
    waited = len(looks) > settings.patience / 2
    grows = waited and rises and looks[-1]["metric"] >= looks[0]["metric"]
    if len(looks) < 2 or (first <= _TOO_LARGE and not grows):
        return None
    what = (
        f"the first one changed what is learned by {first:.3g} times its natural size"
        if first > _TOO_LARGE
        else f"the objective rose from {looks[0]['objective']:.3f} to {looks[-1]['objective']:.3f}"
    )
    factor = 10 ** math.ceil(math.log10(max(3.0, first / (_ENOUGH / 3))))
    return Diagnosis(
        "step too large",
        f"Steps are too large: {what}.",
        f"Lower --lr from {settings.lr:g} to about {settings.lr / factor:.0e}.",
    )


def _same_pictures(
    moved: float, looks: Sequence[Mapping[str, float]], seen: Seen, settings: Settings, advice: str
) -> Diagnosis | None:
    """Pictures that stay the same although what is learned has changed."""
    if len(looks) < 2 or seen.change is None or seen.change > _SAME_PICTURE:
        return None
    if seen.acts and moved < _FAR:
        return Diagnosis(
            "step too small",
            f"Steps are too small: pictures stay the same so far, and other words in the token's "
            f"place change them. What is learned has changed by {moved:.1g} of its natural size.",
            f"Raise --lr from {settings.lr:g} to about {settings.lr * 10:.0e}.",
        )
    if moved < _ENOUGH:
        return None
    return Diagnosis(
        "no influence",
        f"Pictures stay the same although what is learned has changed by {moved:.1g} of its own "
        f"size: so far the model ignores it.",
        _sentence(advice),
    )


def _content(
    looks: Sequence[Mapping[str, float]], seen: Seen, settings: Settings
) -> Diagnosis | None:
    """A metric that fell, with an objective that did not: the content's weight holds it."""
    best = min(looks[1:], key=lambda look: look["metric"], default=looks[0])
    if looks[0]["metric"] - best["metric"] <= _NOTHING * _unit(looks, seen):
        return None
    given = [("--preservation", settings.preservation), ("--kl", settings.kl)]
    weights = " and ".join(f"{name} from {value:g}" for name, value in given if value)
    if not weights:
        return None
    return Diagnosis(
        "content",
        f"The metric fell from {looks[0]['metric']:.3f} to {best['metric']:.3f}, and what holds "
        f"the content cost more than that.",
        f"Lower {weights}, or --lr, which changes content less for the same gain.",
    )


def _refused(looks: Sequence[Mapping[str, float]], seen: Seen) -> Diagnosis | None:
    """A metric that fell, and a guard that took none of these states."""
    best = min(look["metric"] for look in looks)
    if "guard" not in looks[0] or looks[0]["metric"] - best <= _NOTHING * _unit(looks, seen):
        return None
    return Diagnosis(
        "guard",
        f"The metric fell from {looks[0]['metric']:.3f} to {best:.3f}, in states that the guard "
        f"refuses: their pictures no longer show what they should.",
        "Lower --lr, or take more --iterations. Where no judge knows the prompts, or noise and "
        "embedding move together, --preservation 0 lets pictures show something else.",
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}" + ("" if text.endswith(("?", ".")) else ".")
