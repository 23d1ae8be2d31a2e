"""What the steps of a pipeline's loop have in common: a denoiser, a schedule and conditioning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, keystr, tree_flatten, tree_flatten_with_path

from adjointdpm.engine.gradients import GradientMethod
from adjointdpm.engine.grids import check_grid
from adjointdpm.engine.numerics import at_least_float32
from adjointdpm.engine.plan import NetworkCall
from adjointdpm.engine.problem import Problem
from adjointdpm.engine.samplers import DPMSolverPP, Euler, Sampler
from adjointdpm.engine.sampling import check_prediction
from adjointdpm.pipelines.argument_roles import (
    PLAIN,
    Constant,
    Output,
    Role,
    Same,
    State,
    Time,
    filled_with,
    rounding,
    state_in,
)
from adjointdpm.pipelines.guidance_weights import (
    cut,
    fitted_weights,
    misfit,
    output_rows,
    wide,
)
from adjointdpm.pipelines.noise_levels import NoiseLevels, NotReplayable, noise_levels
from adjointdpm.pipelines.recorded_network import CallForm, RecordedDenoiser, RecordedNetwork

REPEATING = (Euler(), DPMSolverPP(2))  # the native samplers that may repeat a scheduler
LOOKED_AT = 4096  # numbers of each state by which they are compared
# Schedulers compute their coefficients in float32; another rule differs by more than a hundredth.
SAME_STEPS = 5e-4
OFF_THE_LINE = 2e-3  # some schedulers round the times that a network sees to whole numbers


@dataclass
class Call:
    """One call of a network: its arguments and what it returned, as flat lists."""

    name: str
    network: nn.Module
    leaves: list[Any]
    names: list[str]  # where the leaves stand
    spec: TreeSpec
    autocast: bool
    found: list[Any] = field(default_factory=list)
    form: Any = None

    def returns(self, tree: Any) -> None:
        """Take in what the network returned."""
        self.found, self.form = tree_flatten(tree)

    @property
    def shapes(self) -> list[Any]:
        """What tells calls of one network apart."""
        return [tuple(x.shape) if isinstance(x, Tensor) else None for x in self.leaves]

    @property
    def outputs(self) -> list[Tensor]:
        """The tensors among what the network returned."""
        return [x for x in self.found if isinstance(x, Tensor)]


def recorded_call(name: str, network: nn.Module, args: Any, kwargs: Any) -> Call:
    """The call before it is made; the network may change the containers that it gets."""
    paths, spec = tree_flatten_with_path((args, kwargs))
    leaves = [leaf for _, leaf in paths]
    device = next((x.device.type for x in leaves if isinstance(x, Tensor)), "cpu")
    names = [f"{name}{keystr(path[1:])}" for path, _ in paths]
    return Call(name, network, leaves, names, spec, torch.is_autocast_enabled(device))


@dataclass
class Step:
    """One step of the scheduler: its arguments, and the network calls before it."""

    output: Tensor
    timestep: Any
    state: Tensor
    calls: list[Call]


class RecordedLoop:
    """The steps of a run; from the second on each one is compared with the first.

    Args:
        name: of the pipeline's class, for messages.
        scheduler: its timesteps set.
        first: the first step, with graphs.

    Attributes:
        complete: whether the scheduler has taken its last step.

    """

    def __init__(self, name: str, scheduler: Any, first: Step) -> None:
        self.name, self.first = name, first
        self.levels: NoiseLevels = noise_levels(scheduler)
        timesteps = [float(t) for t in getattr(scheduler, "timesteps", [])]
        if float(first.timestep) not in timesteps:
            raise self._refusal(f"it steps at {first.timestep}, none of its scheduler's timesteps")
        self._position = timesteps.index(float(first.timestep))
        self._steps, self._taken = len(timesteps) - self._position, 1
        self._forms: list[CallForm] = []
        self._copies = 1
        self._scaled = False  # whether the scheduler's states are those of the table over α
        self._constants: list[Tensor] = []
        self._times: list[float] = []
        self._values: list[list[float]] = []  # of each place that holds a time, by step
        self._weights = torch.empty(0)
        self._track: list[tuple[Tensor, Tensor]] = []  # parts of states and outputs
        self._last_state = torch.empty(0)
        if self._steps < 2:
            raise self._refusal("one step says too little about its loop; take more")

    @property
    def complete(self) -> bool:
        return self._taken == self._steps

    def add(self, step: Step) -> None:
        """Take in the next step.

        Raises:
            NotReplayable: it is not the first one at another state and time.

        """
        if step.output.requires_grad:
            raise self._refusal(
                "what it makes of its networks' outputs depends on a tensor that requires grad"
            )
        if not self._forms:
            self._read(step)
            self._check(self.first, 0)
        self._check(step, self._taken)
        self._taken += 1

    # Reading: what the first two steps have in common.

    def _read(self, step: Step) -> None:
        calls = self.first.calls[len(self.first.calls) - len(step.calls) :]
        names = [call.name for call in step.calls]
        if not names or [call.name for call in calls] != names:
            raise self._refusal(f"the networks of its steps differ, {names} after the first")
        self.first.calls = calls
        halves = [torch.equal(*s.state.chunk(2)) for s in (self.first, step) if len(s.state) > 1]
        states = [len(s.state) % 2 == 0 for s in (self.first, step)]
        self._copies = 2 if halves and all(halves) and all(states) else 1
        x = self._base(self.first.state)
        networks = list({id(call.network): call.network for call in calls})
        for call, later in zip(calls, step.calls, strict=True):
            if call.spec != later.spec or call.shapes != later.shapes:
                raise self._refusal(f"the arguments of {call.name!r} differ from step to step")
            if getattr(call.network, "is_cache_enabled", False):
                raise self._refusal(f"{call.name!r} keeps a cache from step to step")
            roles = [
                self._role(call.names[i], leaf, later.leaves[i], x)
                for i, leaf in enumerate(call.leaves)
            ]
            counts = output_rows(later.outputs, self._base(step.state)) is not None
            form = CallForm(networks.index(id(call.network)), call.spec, tuple(roles), counts)
            self._forms.append(form)
        if not any(isinstance(role, State) for form in self._forms for role in form.roles):
            raise self._refusal("its networks do not get the state as it is")
        rows = self._rows(step)
        self._weights = fitted_weights(rows, self._target(step))
        self._scaled = any(abs(c - 1) > slack for c, slack in self._scales(self.first))

    def _role(self, name: str, leaf: Any, later: Any, x: Tensor) -> Role:
        if not isinstance(leaf, Tensor):
            if not isinstance(leaf, PLAIN):
                raise self._refusal(
                    f"{name} is a {type(leaf).__name__}, which may change from step to step"
                )
            if type(leaf) is type(later) and leaf == later:
                return Same(leaf)
            if filled_with(leaf) is None or filled_with(later) is None:
                raise self._refusal(f"{name} changes from step to step")
            return self._time(None, torch.float64)
        if not isinstance(later, Tensor) or leaf.dtype != later.dtype:
            raise self._refusal(f"{name} changes its dtype")
        if leaf is later or torch.equal(leaf, later):
            return self._constant(leaf)
        found = state_in(leaf, x)
        if found is not None:
            number = self._constant(leaf).number if found.dim is not None else -1
            return State(**{**vars(found), "number": number})
        for j, former in enumerate(self.first.calls[: len(self._forms)]):
            for k, output in enumerate(former.outputs):
                if output.shape == leaf.shape and torch.equal(output, leaf):
                    return Output(j, k)
        if filled_with(leaf) is not None and filled_with(later) is not None:
            dtype = leaf.dtype if leaf.is_floating_point() else torch.float32
            return self._time(tuple(leaf.shape), dtype)
        raise self._refusal(f"{name} is neither the state, nor the time, nor always the same")

    def _constant(self, tensor: Tensor) -> Constant:
        self._constants.append(tensor)
        return Constant(len(self._constants) - 1)

    def _time(self, shape: tuple[int, ...] | None, dtype: torch.dtype) -> Time:
        self._values.append([])
        return Time(len(self._values) - 1, shape, dtype)

    # Checking: whether a step is what was read.

    def _check(self, step: Step, number: int) -> None:
        if self._copies == 2 and not torch.equal(*step.state.chunk(2)):
            raise self._refusal("the two halves of its state differ")
        if len(step.calls) != len(self._forms):
            raise self._refusal("the number of its network calls differs from step to step")
        time = torch.tensor(self.levels.time(self._position + number), dtype=torch.float32)
        self._times.append(time.item())
        for call, first, form in zip(step.calls, self.first.calls, self._forms, strict=True):
            if call.network is not first.network or call.spec != first.spec:
                raise self._refusal(f"the calls of {first.name!r} differ from step to step")
            if call.autocast != torch.is_autocast_enabled(step.state.device.type):
                raise self._refusal("it calls its network within an autocast of its own")
            for place, role in enumerate(form.roles):
                if not self._fits(role, call.leaves[place], first.leaves[place], step):
                    raise self._refusal(f"{call.names[place]} changes from step to step")
        self._check_scales(step, number)
        self._check_weights(step, number)
        self._track.append((self._seen(step.state, number), self._seen(step.output)))

    def _check_weights(self, step: Step, number: int) -> None:
        rows, target = self._rows(step), self._target(step)
        kinds = (step.output.dtype, *(o.dtype for c in step.calls for o in c.outputs[:1]))
        slack = max(rounding(dtype) for dtype in kinds)
        difference = misfit(rows, target, self._weights)
        if number > 0:  # the outputs of the first step may be too much alike to tell weights
            off = (fitted_weights(rows, target) - self._weights).abs().max()
            size = self._weights.abs().max() * target[0].numel() ** 0.5
            difference = max(difference, float(off / size) / 10)
        if difference > slack:
            raise self._refusal(
                "what its scheduler gets is no weighted sum of its networks' outputs (they differ "
                f"by {difference:.1e} of their size)"
            )

    def _fits(self, role: Role, leaf: Any, first: Any, step: Step) -> bool:
        if isinstance(role, Time):
            value = filled_with(leaf)
            self._values[role.number] += [] if value is None else [value]
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
        return same and role.scale(leaf, self._base(step.state)) is not None

    def _scales(self, step: Step) -> list[tuple[float, float]]:
        """The factors between the state and what the networks get for it, with their rounding."""
        x = self._base(step.state)
        return [
            (scale, rounding(leaf.dtype))
            for call, form in zip(step.calls, self._forms, strict=True)
            for leaf, role in zip(call.leaves, form.roles, strict=True)
            if isinstance(role, State) and (scale := role.scale(leaf, x)) is not None
        ]

    def _check_scales(self, step: Step, number: int) -> None:
        wanted = self._frame(self._times[number])
        for scale, slack in self._scales(step):
            if abs(scale - wanted) > (1e-5 + slack) * wanted:
                raise self._refusal(
                    f"its network gets the state times {scale:.6g}, which is neither 1 nor the "
                    "signal of its schedule at that time"
                )

    def _frame(self, time: float) -> float:
        """What the scheduler's state at a time is multiplied by to be that of the schedule."""
        if not self._scaled:
            return 1.0
        return float(self.levels.schedule.alpha(torch.tensor(time, dtype=torch.float64)))

    @property
    def _same_steps(self) -> float:
        """The share of a state by which another rule's steps may differ and be the scheduler's."""
        eps = torch.finfo(self._moved.dtype).eps
        return max(SAME_STEPS, 4 * eps * self._steps**0.5)

    def _rows(self, step: Step) -> Tensor:
        x = self._base(step.state)
        calls = zip(step.calls, self._forms, strict=True)
        found = [output_rows(call.outputs, x) for call, form in calls if form.counts]
        if not found or any(part is None for part in found):
            raise self._refusal("its networks return no tensor of the shape of the state")
        dtype = torch.promote_types(torch.float32, step.output.dtype)
        return torch.cat([part.detach().to(dtype) for part in found if part is not None])

    def _target(self, step: Step) -> Tensor:
        target = cut(self._base(step.output.detach()), self._base(step.state))
        if target is None or target.shape != self._base(step.state).shape:
            raise self._refusal("what its scheduler gets has another shape than the state")
        return target

    def _base(self, tensor: Tensor) -> Tensor:
        """Without the second half, where that repeats the first."""
        return tensor[: len(tensor) // self._copies]

    def _seen(self, tensor: Tensor, number: int | None = None) -> Tensor:
        """Some of the numbers of a state, in the schedule's frame, or of an output."""
        base = self._base(tensor)
        flat = wide((self._target_of(base) if number is None else base).flatten()).cpu()
        places = torch.linspace(0, len(flat) - 1, min(LOOKED_AT, len(flat))).long()
        return flat[places] * (1.0 if number is None else self._frame(self._times[number]))

    def _target_of(self, base: Tensor) -> Tensor:
        found = cut(base, self._base(self.first.state))
        assert found is not None
        return found

    # Solving.

    def finish(self, moved: Tensor, network: Callable[..., RecordedNetwork]) -> None:
        """Take in where the scheduler's last step arrived, and make the problem's parts.

        Args:
            moved: the state there.
            network: makes the network from the modules, the forms of their calls, and the number
                of places that hold a time.

        Raises:
            NotReplayable: the times do not decrease, or a network sees them in a curved form.

        """
        self._end = torch.tensor(self.levels.end(), dtype=torch.float32).item()
        self._times.append(self._end)
        self._track.append((self._seen(moved, self._taken), torch.empty(0)))
        self._moved = moved
        distinct = list(dict.fromkeys(self._times))
        if any(b >= a for a, b in pairwise(distinct)):
            raise self._refusal(f"its times {distinct} do not decrease")
        self.grid = check_grid(torch.tensor(distinct, dtype=torch.float64), self.levels.schedule)
        modules = list({id(c.network): c.network for c in self.first.calls}.values())
        self._network = network(modules, self._forms, len(self._values))

    def _columns(self) -> tuple[Tensor, list[Tensor]]:
        """The run's times, increasing, and what the networks got for them in each place."""
        times = dict(zip(self._times[:-1], range(self._taken), strict=True))
        known = sorted(times)
        columns = []
        for values in self._values:
            column = [values[times[t]] for t in known]
            slope = (column[-1] - column[0]) / (known[-1] - known[0])
            line = [column[0] + slope * (t - known[0]) for t in known]
            size = max(map(abs, column))
            if max(abs(a - b) for a, b in zip(line, column, strict=True)) > OFF_THE_LINE * size:
                raise self._refusal("its network sees the time in a form that is no line")
            columns.append((column, slope))
        if self._end < known[0]:
            # The entry without noise before a table's first is none that the network knows.
            at = max(self._end, 1.0) if self.levels.is_table else self._end
            for column, slope in columns:
                column.insert(0, column[0] + slope * (at - known[0]))
            known.insert(0, self._end)
        device = self.first.state.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        made = [torch.tensor(v, dtype=dtype, device=device) for v in (known, *(c for c, _ in columns))]
        return made[0], made[1:]

    def solve(self, sampler: Sampler | None, method: GradientMethod) -> Tensor:
        """The state at the end of the loop, as the scheduler's last step would return it."""
        times, columns = self._columns()
        device = self.first.state.device
        weights = (self._weights * self.levels.sign).to(device, times.dtype)
        cond = [times, weights, *columns, *self._constants]
        denoiser = RecordedDenoiser(self._network, self.levels.prediction)
        x = self._base(self.first.state)
        start = x.to(at_least_float32(x)) * self._frame(self._times[0])
        if sampler is None:
            sampler = self.repeating()
        plan = sampler.plan(self.levels.schedule, self.grid)
        ends = [plan.network_calls[i].time.detach() for i in (0, -1)]
        check_prediction(denoiser, self.levels.schedule, *ends)
        problem = Problem(denoiser, self.levels.schedule, sampler, plan, start, cond, None)
        solved = method.solve(problem) / self._frame(self._end)
        return torch.cat([solved] * self._copies).to(self._moved.dtype)

    def repeating(self) -> Sampler:
        """The native sampler that takes the scheduler's steps.

        Raises:
            NotReplayable: there is none.

        """
        denoiser = RecordedDenoiser(self._network, self.levels.prediction)
        for sampler in REPEATING:
            plan = sampler.plan(self.levels.schedule, self.grid)
            states: list[Tensor] = []

            def evaluate(call: NetworkCall, x: Tensor) -> tuple[Tensor, Tensor]:
                output = self._track[call.step][1] * self.levels.sign
                return denoiser.split(output, x, call.alpha, call.sigma)

            plan.run(
                evaluate, self._track[0][0], sampler.draw, lambda step, x, _: states.append(x)
            )
            wanted = [state for state, _ in self._track[1:]]
            states += states[-1:] * (len(wanted) - len(states))  # a last step that changes nothing
            size = max(float(state.abs().max()) for state in wanted)
            near = [
                float((a - b).abs().max()) <= self._same_steps * size
                for a, b in zip(states, wanted, strict=True)
            ]
            if all(near):
                return sampler
        raise self._refusal(
            "this gradient method solves an ODE of its own, and no native sampler takes the steps "
            f"of {type(self.levels.scheduler).__name__}; name one, such as "
            "sampler=adjointdpm.Euler()"
        )

    def _refusal(self, why: str) -> NotReplayable:
        return NotReplayable(
            f"{self.name} cannot be solved natively: {why}. Leave sampler=None, with a method that "
            'takes every pipeline, such as gradient="exact"'
        )
