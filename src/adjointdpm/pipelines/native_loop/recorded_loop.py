"""A pipeline's loop as it runs: each step is compared with what the first ones have in common."""

from typing import Any

import torch
from torch import Tensor

from adjointdpm.pipelines.native_loop.argument_roles import (
    Constant,
    Output,
    Role,
    Same,
    Time,
    filled_with,
    rounding,
)
from adjointdpm.pipelines.native_loop.guidance_weights import fitted_weights, misfit, wide
from adjointdpm.pipelines.native_loop.loop_form import LoopForm, halves_equal, read_form
from adjointdpm.pipelines.native_loop.noise_levels import NoiseLevels, NotReplayable, noise_levels
from adjointdpm.pipelines.native_loop.recorded_step import Step

LOOKED_AT = 4096  # numbers of each state by which the rules of schedulers are compared


class RecordedLoop:
    """The steps of a run, which are the first one at other states and times, or an error.

    Args:
        scheduler: its timesteps set.
        first: the first step, with graphs.

    Attributes:
        levels: the scheduler's noise levels.
        form: what the steps have in common; known from the second on.
        times: of the steps, in the schedule's unit; at the end also where the last one arrives.
        values: for each place that holds a time, what the network got there, by step.
        states, outputs: some numbers of every state, in the schedule's frame, and of what the
            scheduler got.

    Raises:
        NotReplayable: no schedule can be read from the scheduler, or it takes a single step.

    """

    def __init__(self, scheduler: Any, first: Step) -> None:
        self.first = first
        self.levels: NoiseLevels = noise_levels(scheduler)
        timesteps = [float(t) for t in getattr(scheduler, "timesteps", [])]
        if float(first.timestep) not in timesteps:
            raise NotReplayable(f"it steps at {first.timestep}, none of its scheduler's timesteps")
        self._position = timesteps.index(float(first.timestep))
        self.steps = len(timesteps) - self._position
        if self.steps < 2:
            raise NotReplayable("one step says too little about its loop; take more")
        self.form = LoopForm()
        self.times: list[float] = []
        self.values: list[list[float]] = []
        self.states: list[Tensor] = []
        self.outputs: list[Tensor] = []

    @property
    def complete(self) -> bool:
        """Whether the scheduler has taken its last step."""
        return len(self.times) >= self.steps

    def add(self, step: Step) -> None:
        """Compare the next step.

        Raises:
            NotReplayable: it is not the first one at another state and time.

        """
        if step.output.requires_grad:
            raise NotReplayable(
                "what it makes of its networks' outputs depends on a tensor that requires grad"
            )
        if not self.times:
            calls = self.first.calls[len(self.first.calls) - len(step.calls) :]
            if not calls or [c.name for c in calls] != [c.name for c in step.calls]:
                raise NotReplayable("the networks of its first step are not those of its second")
            self.first.calls = calls  # without those before the loop
            self.form = read_form(self.first, step)
            self.values = [[] for _ in range(self.form.times)]
            self._check(self.first)
        self._check(step)

    def end(self, state: Tensor) -> None:
        """Note where the scheduler's last step arrived."""
        self.times.append(torch.tensor(self.levels.end(), dtype=torch.float32).item())
        self.states.append(self._some(self.form.base(state)) * self.frame(self.times[-1]))

    def frame(self, time: float) -> float:
        """What the scheduler's state at a time is multiplied by to be that of the schedule.

        It is 1, or the signal α where a scheduler's states are those of the table over α.
        """
        if not self.form.scaled:
            return 1.0
        return float(self.levels.schedule.alpha(torch.tensor(time, dtype=torch.float64)))

    def _check(self, step: Step) -> None:
        number, form = len(self.times), self.form
        if form.copies == 2 and not halves_equal(step.state):
            raise NotReplayable("the two halves of its state differ")
        if len(step.calls) != len(form.calls):
            raise NotReplayable("the number of its network calls differs from step to step")
        time = torch.tensor(self.levels.time(self._position + number), dtype=torch.float32).item()
        for call, first, known in zip(step.calls, self.first.calls, form.calls, strict=True):
            if call.network is not first.network or call.spec != first.spec:
                raise NotReplayable(f"the calls of {first.name!r} differ from step to step")
            if call.settings != first.settings:
                raise NotReplayable(f"it changes its network {call.name!r} from step to step")
            if call.autocast != torch.is_autocast_enabled(step.state.device.type):
                raise NotReplayable("it calls its network within an autocast of its own")
            for place, role in enumerate(known.roles):
                if not self._fits(role, call.leaves[place], first.leaves[place], step):
                    raise NotReplayable(f"{call.names[place]} changes from step to step")
        for scale, slack in form.scales(step):
            wanted = self.frame(time)
            if abs(scale - wanted) > (1e-5 + slack) * wanted:
                raise NotReplayable(
                    f"its network gets the state times {scale:.6g}, which is neither 1 nor the "
                    "signal of its schedule at that time"
                )
        self._check_weights(step, number)
        self.times.append(time)
        self.states.append(self._some(form.base(step.state)) * self.frame(time))
        self.outputs.append(self._some(form.target(step)))

    def _fits(self, role: Role, leaf: Any, first: Any, step: Step) -> bool:
        if isinstance(role, Time):
            value = filled_with(leaf)
            self.values[role.number] += [] if value is None else [value]
            return value is not None
        if isinstance(role, Same):
            return type(leaf) is type(role.value) and leaf == role.value
        if leaf.shape != first.shape or leaf.dtype != first.dtype:
            return False
        if isinstance(role, Constant):
            return leaf is first or torch.equal(leaf, first)
        if isinstance(role, Output):
            return torch.equal(leaf, step.calls[role.call].outputs[role.leaf])
        same = role.same_rest(leaf.detach(), first.detach())
        return same and role.scale(leaf, self.form.base(step.state)) is not None

    def _check_weights(self, step: Step, number: int) -> None:
        rows, target, weights = self.form.rows(step), self.form.target(step), self.form.weights
        kinds = (step.output.dtype, *(o.dtype for c in step.calls for o in c.outputs[:1]))
        slack = max(rounding(dtype) for dtype in kinds)
        difference = misfit(rows, target, weights)
        if number > 0:  # the outputs of the first step may be too much alike to tell weights
            off = (fitted_weights(rows, target) - weights).abs().max()
            # Rounding averages out over the numbers of a sample.
            share = target[0].numel() ** 0.5 / weights.abs().max() / 10
            difference = max(difference, float(off * share))
        if difference > slack:
            raise NotReplayable(
                "what its scheduler gets is no weighted sum of its networks' outputs (they differ "
                f"by {difference:.1e} of their size)"
            )

    @staticmethod
    def _some(tensor: Tensor) -> Tensor:
        flat = tensor.flatten()
        places = torch.linspace(0, len(flat) - 1, min(LOOKED_AT, len(flat))).long()
        return wide(flat[places.to(flat.device)]).cpu()
