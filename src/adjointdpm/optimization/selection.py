"""Which state is kept: the best look at the validation examples that the guard takes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adjointdpm.optimization.content_weight import lowered
from adjointdpm.optimization.guard import Guard
from adjointdpm.optimization.objective import Objective
from adjointdpm.optimization.settings import Settings
from adjointdpm.optimization.state import LoopState
from adjointdpm.variables import Example

_STALLED = 2  # looks without a better objective


@dataclass
class Selection:
    """Looks at states, and tells the loop which is the best so far.

    Args:
        objective: what is minimised.
        validation: the examples that are looked at.
        state: of the loop; it keeps the best.
        settings: of the loop.
        history: all records so far.
        guard: decides which states may be the best.
        in_part: whether the guard chooses afterwards how much of the best state is kept. As long as
            it takes no state whole, the best that it refuses is kept.

    """

    objective: Objective
    validation: Sequence[Example]
    state: LoopState
    settings: Settings
    history: Sequence[Mapping[str, Any]]
    guard: Guard | None
    in_part: bool

    def look(self) -> dict[str, float]:
        """Look at the validation examples, and keep the state if it is the best."""
        with self.state.average.in_place():
            values = self.objective.look(self.validation)
            objective, progress = values["objective"], self.state.progress
            if self.accepts(values):
                if objective < progress.start_objective and self.best_is_refused():
                    self.state.judge_anew(progress.start_objective, progress.start_objective)
            elif not (self.in_part and self.history and self.nothing_is_taken()):
                objective = math.inf
            self.state.consider(objective)
        return values

    def nothing_is_taken(self) -> bool:
        """Whether the best state is the start, or one that the guard refuses."""
        return self.state.progress.best_iteration == 0 or self.best_is_refused()

    def best_is_refused(self) -> bool:
        """Whether the guard does not take the best state whole."""
        return self.state.progress.best_iteration > 0 and not self.accepts(self.best_values())

    def best_values(self) -> dict[str, float]:
        """What the best state's look found."""
        best = self.state.progress.best_iteration
        return next(r["validation"] for r in self.history if r["iteration"] == best)

    def lower_content(self, values: dict[str, float]) -> bool:
        """Lower the weights of the content if it costs all that was gained and no guard objects."""
        progress = self.state.progress
        if not (self.settings.relax and self.objective.spread and self.accepts(values)):
            return False
        if progress.looks_without_progress < (self.settings.backtrack or _STALLED):
            return False
        if progress.best_iteration == progress.iteration:  # better, if only by next to nothing
            return False
        best = self.best_values()
        total, content = self.objective.total, self.objective.content_cost
        factor = lowered(best, values, total, content, self.objective.spread)
        if factor == 1:
            return False
        self.objective.lower_content(factor)
        self.state.judge_anew(total(best), total(self.history[0]["validation"]))
        with self.state.average.in_place():  # it is the average that was looked at
            self.state.consider(total(values))
        return True

    def accepts(self, values: dict[str, float]) -> bool:
        """Whether the guard takes a state with these values."""
        first = self.history[0]["validation"] if self.history else values
        return self.guard is None or self.guard.accepts(values, first)

    def is_astray(self, record: Mapping[str, Any]) -> bool:
        """Whether the guard leads back to the best state, after all records and this one."""
        return self.guard is not None and self.guard.is_astray([*self.history, record])

    def hacked(self) -> str | None:
        """Why the guard ends the run, if it does."""
        return None if self.guard is None else self.guard.reason_to_stop(self.history)
