"""Everything that decides how a run of the loop goes on, and its way into a checkpoint and back."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from adjointdpm.errors import AdjointDPMError, CheckpointError
from adjointdpm.optimization.auto_agreement import Choices
from adjointdpm.optimization.averaging import Average
from adjointdpm.optimization.objective import Objective
from adjointdpm.optimization.optimizers import pack_state, unpack_state
from adjointdpm.optimization.stored_state import LoopFacts
from adjointdpm.runs.checkpoints import Checkpoints, Stored
from adjointdpm.support.schema import check_facts
from adjointdpm.variables import Variable

_LEAST_GAIN = 0.002  # of all that was gained: less is no progress


@dataclass
class Progress:
    """How far the run is.

    Args:
        iteration: steps done.
        best_objective, best_iteration, looks_without_progress: of the validation so far.
        start_objective: of the first validation.
        step_scale: what the learning rate is multiplied by, after steps that made things worse.
        network_calls, seconds: what the loop has cost up to the last checkpoint, in all sessions:
            the calls of all processes, and the main one's seconds.
        gradients: what `Auto` decided, see `auto_agreement`.
        unseen: the record of a step that is done, whose pictures have not been looked at yet.

    """

    iteration: int = 0
    best_objective: float = math.inf
    best_iteration: int = 0
    looks_without_progress: int = 0
    start_objective: float = math.inf
    step_scale: float = 1.0
    network_calls: int = 0
    seconds: float = 0.0
    gradients: Choices = field(default_factory=dict)
    unseen: dict[str, Any] | None = None


@dataclass
class LoopState:
    """What changes while the loop runs.

    Args:
        variable: holds the current iterate.
        objective: may have a state of its own.
        optimizer: changes the variable's tensors.
        average: their moving average.
        progress: counters.
        best: the tensors with the best validation objective so far; the start counts.

    """

    variable: Variable
    objective: Objective
    optimizer: Optimizer
    average: Average
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.best = self._copy()

    def consider(self, objective: float) -> None:
        """Keep what the variable holds now if its validation objective is the best so far.

        Looks that find nothing better are counted; a better objective counts as none if the gain is
        less than `_LEAST_GAIN` of all that was gained.
        """
        progress = self.progress
        if math.isinf(progress.best_objective):
            progress.start_objective = objective
        gain, gained = progress.best_objective - objective, progress.start_objective - objective
        if gain > 0:
            progress.best_objective, progress.best_iteration = objective, progress.iteration
            self.best = self._copy()
        if gain > _LEAST_GAIN * gained and gain > 0:
            progress.looks_without_progress = 0
        else:
            progress.looks_without_progress += 1

    def judge_anew(self, best: float, start: float) -> None:
        """Take other objectives of the best state and of the start: weights have changed."""
        self.progress.best_objective, self.progress.start_objective = best, start

    def go_back(self) -> None:
        """Go back to the best state, for steps of half the size; the optimiser starts anew."""
        self.variable.load_tensors(self.best)
        self.optimizer.state.clear()
        self.progress.step_scale *= 0.5

    def begin_again(self) -> None:
        """Go back to the best state, for steps of full size; the optimiser starts anew."""
        self.go_back()
        self.progress.step_scale, self.progress.looks_without_progress = 1.0, 0

    def size(self) -> int:
        """How many bytes a checkpoint has at least: an optimiser may add its own."""
        groups = (self.variable.tensors(), self.best, self.average.values)
        return sum(tensor.nbytes for group in groups for tensor in group.values())

    def save(self, checkpoints: Checkpoints, history: Sequence[dict[str, Any]]) -> None:
        """Write a checkpoint, with all records so far.

        Raises:
            OutputError: it could not be written.

        """
        groups: dict[str, dict[str, Tensor]] = {
            "now": self.variable.tensors(),
            "best": self.best,
            "average": self.average.values,
        }
        tensors = {
            f"{group}/{name}": tensor
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        slots, optimizer = pack_state(self.optimizer)
        facts = asdict(self.progress) | {
            # Every bit of them.
            "best_objective": self.progress.best_objective.hex(),
            "start_objective": self.progress.start_objective.hex(),
            "objective": self.objective.state_dict(),
            "optimizer": {"class": type(self.optimizer).__name__, "state": optimizer},
            "history": [*history],
        }
        checkpoints.write(self.progress.iteration, tensors | slots, facts)

    def restore(self, stored: Stored) -> list[dict[str, Any]]:
        """Go back to the state that `save` wrote, which `check_stored` lets through.

        Returns:
            The records up to then.

        Raises:
            CheckpointError: it belongs to another run.

        """
        try:
            return self._restore(*stored)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            if isinstance(error, AdjointDPMError):
                raise
            raise CheckpointError(
                f"the checkpoint cannot be gone on from ({type(error).__name__}: {error}); start "
                f"the run again with --force in place of --resume"
            ) from error

    def _restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> list[dict[str, Any]]:
        found = check_facts(LoopFacts, facts)
        groups: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "average": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = tensor
        self.variable.load_tensors(groups["now"])
        if groups["average"].keys() != self.average.values.keys():
            raise CheckpointError(
                f"the checkpoint holds {'an' if groups['average'] else 'no'} average; it was "
                f"written with another ema"
            )
        for name, tensor in self.average.values.items():
            tensor.copy_(groups["average"][name])
        if found.optimizer.name != type(self.optimizer).__name__:
            raise CheckpointError(
                f"the checkpoint was written with another optimizer, {found.optimizer.name}, and "
                f"this run uses {type(self.optimizer).__name__}"
            )
        unpack_state(self.optimizer, tensors, found.optimizer.state)
        self.best = {
            name: groups["best"][name].to(tensor)
            for name, tensor in self.variable.tensors().items()
        }
        self.objective.load_state_dict(found.objective)
        known = {item.name: getattr(found, item.name) for item in fields(Progress)}
        for name in ("best_objective", "start_objective"):
            known[name] = float.fromhex(known[name])
        self.progress = Progress(**known)
        return found.history

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.variable.tensors().items()}
