"""Everything that decides how a run of the loop goes on, and its way into a checkpoint and back."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from adjointdpm.errors import CheckpointError
from adjointdpm.optimization.auto_agreement import Choices
from adjointdpm.optimization.averaging import Average
from adjointdpm.optimization.float16_scaling import GradientScale
from adjointdpm.runs.checkpoints import Checkpoints
from adjointdpm.variables import Variable

Stored = tuple[dict[str, Tensor], dict[str, Any]]  # what `Checkpoints.read` returns


@dataclass
class Progress:
    """How far the run is.

    Args:
        iteration: steps done.
        best_objective, best_iteration, looks_without_progress: of the validation so far.
        network_calls, seconds: what all processes together, and the main one, have spent in the
            loop up to the last checkpoint, in all sessions; checkpoints from before there were
            these count as 0.
        gradients: what `Auto` decided, see `auto_agreement`.

    """

    iteration: int = 0
    best_objective: float = math.inf
    best_iteration: int = 0
    looks_without_progress: int = 0
    network_calls: int = 0
    seconds: float = 0.0
    gradients: Choices = field(default_factory=dict)


@dataclass
class LoopState:
    """What changes while the loop runs.

    Args:
        variable: holds the current iterate.
        adam: the optimiser of its tensors.
        average: their moving average.
        scale: of gradients through float16.
        progress: counters.
        best: the tensors with the best validation objective so far; the start counts.

    """

    variable: Variable
    adam: torch.optim.Adam
    average: Average
    scale: GradientScale = field(default_factory=GradientScale)
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.best = self._copy()

    def consider(self, objective: float) -> None:
        """Keep what the variable holds now if its validation objective is the best so far; count
        looks that find nothing better.
        """
        if objective < self.progress.best_objective:
            progress = self.progress
            progress.best_objective, progress.best_iteration, progress.looks_without_progress = (
                objective,
                progress.iteration,
                0,
            )
            self.best = self._copy()
        else:
            self.progress.looks_without_progress += 1

    def save(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint.

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
        for index, slots in self.adam.state_dict()["state"].items():
            tensors |= {f"adam/{index}/{slot}": value for slot, value in slots.items()}
        facts = asdict(self.progress) | {
            "best_objective": self.progress.best_objective.hex()
        }  # every bit of it
        facts["gradient_scale"] = asdict(self.scale)
        checkpoints.write(self.progress.iteration, tensors, facts)

    def restore(self, stored: Stored) -> None:
        """Go back to the state that `save` wrote.

        Raises:
            CheckpointError: it belongs to another run.

        """
        tensors, facts = stored
        groups: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "average": {}, "adam": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition("/")
            groups[group][rest] = tensor
        self.variable.load_tensors(groups["now"])
        if groups["average"].keys() != self.average.values.keys():
            raise CheckpointError(
                f"the checkpoint holds {'an' if groups['average'] else 'no'} average; it was "
                f"written with another ema"
            )
        for name, tensor in self.average.values.items():
            tensor.copy_(groups["average"][name])
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["adam"].items():
            index, _, slot = name.partition("/")
            slots.setdefault(int(index), {})[slot] = tensor
        self.adam.load_state_dict(self.adam.state_dict() | {"state": slots})
        self.best = {
            name: groups["best"][name].to(tensor)
            for name, tensor in self.variable.tensors().items()
        }
        self.scale = GradientScale(**facts.pop("gradient_scale", {}))  # older checkpoints have none
        facts["best_objective"] = float.fromhex(facts["best_objective"])
        self.progress = Progress(**facts)

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.variable.tensors().items()}
