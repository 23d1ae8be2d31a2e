"""A second measure, which must not get worse while the metric gets better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adjointdpm.metrics import Metric

LOOKS = 3  # running, in which the guard is worse than it may be, end a run
_SMALLEST = 0.5**5  # steps, as a share of full ones: with smaller ones hardly anything is gained


@dataclass(frozen=True)
class Guard:
    """Tells a better picture from one that only pleases the metric.

    It is measured on the validation pictures whenever the loop looks at them. A state in which it
    is worse than its limit is never the best one, and several such looks running end the run.

    Args:
        metric: lower is better; something else than what is optimised, and never differentiated.
        bound: how much its mean may rise; None: two standard errors of the untouched pictures'
            mean, which is how far it moves from draw to draw by itself.
        untouched: its mean on pictures of the untouched model; None: that of the first look, which
            is the same unless something is there before anything is learned, such as a word.
        looks: how many looks running end the run; None: none do. What passes through worse states
            on its way, as noise does, is then only not kept there.
        aim: a smaller bound, for the choice among many states. The best of those that just pass is
            often one that passes by luck.
        finer: what is measured for that choice, in place of the metric.
        way_back: how many looks running lead back to the best state, with steps of half the size;
            None: none do. What left the pictures that show something seldom finds back by itself.
            The fifth way back from full steps ends the run.

    """

    metric: Metric
    bound: float | None = None
    looks: int | None = LOOKS
    untouched: float | None = None
    aim: float | None = None
    finer: Metric | None = None
    way_back: int | None = None

    def for_choice(self) -> "Guard":
        """What guards the choice among many states."""
        return self if self.finer is None else replace(self, metric=self.finer, finer=None)

    def limit(self, start: Mapping[str, float]) -> float:
        """The worst mean that is still taken.

        Where the start is something else than the untouched model, and has used up what may get
        worse, half of the bound is left for what is learned. Else nothing would be.

        Args:
            start: "guard" and "guard_error", its mean and standard error, of the start's pictures.

        """
        room = 2 * start["guard_error"] if self.bound is None else self.bound
        worst = start["guard"] + room if self.untouched is None else self.untouched + room
        if self.untouched is not None and "guard" in start:
            worst = max(worst, start["guard"] + room / 2)
        return worst + 1e-9  # a bound of 1/8 lets exactly 1 picture of 8 go

    def accepts(self, values: Mapping[str, float], start: Mapping[str, float]) -> bool:
        """Whether the guard is not worse than it may be."""
        return values["guard"] <= self.limit(start)

    def is_astray(self, history: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the loop should go back to the best state after these records.

        Looks count since it last went back.
        """
        if self.way_back is None:
            return False
        looks: list[Mapping[str, float]] = []
        for record in history[1:]:
            if "validation" in record:
                looks.append(record["validation"])
            if "step_scale" in record:
                looks.clear()
        start, latest = history[0]["validation"], looks[-self.way_back :]
        return len(latest) == self.way_back and not any(self.accepts(x, start) for x in latest)

    def reason_to_stop(self, history: Sequence[Mapping[str, Any]]) -> str | None:
        """Why the loop should end after these records; None to go on."""
        back = next((record for record in reversed(history) if "step_scale" in record), None)
        if (
            self.way_back is not None
            and back is not None
            and back["step_scale"] <= _SMALLEST
            # The loop also goes back where nothing gets better, which has an end of its own.
            and not self.accepts(back["validation"], history[0]["validation"])
        ):
            return f"the guard refuses where steps of more than {_SMALLEST:.0%} of full ones lead"
        looks = [record["validation"] for record in history if "validation" in record]
        if self.looks is None or len(looks) <= self.looks:
            return None
        start, latest = looks[0], looks[-self.looks :]
        if any(self.accepts(look, start) for look in latest):
            return None
        if any(look["metric"] >= start["metric"] for look in latest):
            return None  # nothing was gained: that is no hacking
        return (
            f"the guard {self.metric.name} went from {start['guard']:.3g} to "
            f"{latest[-1]['guard']:.3g}, beyond {self.limit(start):.3g}, while the metric got "
            f"better"
        )
