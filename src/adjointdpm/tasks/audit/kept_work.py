"""Work of an audit that is kept when done, with the network calls and seconds that it took."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from adjointdpm.engine.stats import Stats
from adjointdpm.runs.resumable_steps import Once, ResumableSteps, Saved


@dataclass
class KeptWork:
    """Resumable steps, each with the network calls and seconds it took, now or in an earlier run.

    Args:
        steps: does and keeps them.
        counter: counts the network calls of this run.
        processes: how many share the work; each is charged for its part of the seconds.
        restored_calls, restored_seconds: of steps that an earlier run did.

    """

    steps: ResumableSteps
    counter: Stats
    processes: int = 1
    restored_calls: int = 0
    restored_seconds: float = 0.0

    def __call__(self, name: str, make: Callable[[], Saved]) -> Saved:
        """Do a step, or take it from an earlier run; its facts get `calls` and `seconds`."""
        calls, began = self._calls(), self._seconds()

        def counted() -> Saved:
            tensors, facts = make()
            spent = {"calls": self._calls() - calls, "seconds": self._seconds() - began}
            return tensors, facts | spent

        (tensors, facts), restored = self.steps.once(name, counted)
        if restored:
            self.restored_calls += facts["calls"]
            self.restored_seconds += facts["seconds"]
        return tensors, facts

    def within(self, name: str) -> Once:
        """The same for the steps of a step."""
        return lambda part, make: self(f"{name}/{part}", make)

    def _calls(self) -> int:
        return self.counter.network_calls + self.restored_calls

    def _seconds(self) -> float:
        return time.perf_counter() / self.processes + self.restored_seconds
