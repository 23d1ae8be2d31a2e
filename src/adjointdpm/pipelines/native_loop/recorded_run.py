"""A pipeline's call in which a native solve takes the place of its loop.

The pipeline runs its own code up to its loop. In the loop's first step its networks run; in the
others, which are there to be read, random numbers stand for what they return. So every argument of
a network is seen at several states and times, and what the pipeline makes of its outputs is seen
for several outputs. The last step of the scheduler returns the state that the native solve reached,
and the pipeline's own code makes the sample of it. What does not fit is an error.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_unflatten

from adjointdpm.engine.gradients import Checkpoint, GradientMethod
from adjointdpm.engine.samplers import Sampler
from adjointdpm.engine.torch_internals import outside_function_mode
from adjointdpm.pipelines.native_loop.native_solve import solve
from adjointdpm.pipelines.native_loop.noise_levels import NotReplayable
from adjointdpm.pipelines.native_loop.recorded_loop import RecordedLoop
from adjointdpm.pipelines.native_loop.recorded_network import RecordedNetwork
from adjointdpm.pipelines.native_loop.recorded_step import Call, Step, recorded_call, settings_of
from adjointdpm.pipelines.own_call.network_state import ChangingParts, NetworkState
from adjointdpm.pipelines.own_call.networks_of_a_call import NetworksOfACall

KEPT = 8  # networks of former runs


class Checked(Exception):
    """The run has been read as far as a check needs it."""

    def __init__(self, loop: RecordedLoop) -> None:
        self.loop = loop


class RecordedRun(NetworksOfACall):
    """What the networks and the scheduler of one call do, read and then solved natively.

    Args:
        name: of the pipeline's class, for messages.
        sampler: the native sampler; None for the one that repeats the pipeline's scheduler.
        method: how the solve is differentiated; None only checks, and raises `Checked`.
        known: networks of former runs, by their form, so that what a method measured stays known.

    """

    def __init__(
        self,
        name: str,
        sampler: Sampler | None,
        method: GradientMethod | None,
        known: MutableMapping[str, RecordedNetwork],
    ) -> None:
        super().__init__(Checkpoint())
        self.name, self.sampler, self.native, self.known = name, sampler, method, known
        self.loop: RecordedLoop | None = None
        self.result: Tensor | None = None  # the state that the native solve reached
        self._calls: list[Call] = []  # of the running step
        self._expected: Tensor | None = None
        self._random: torch.Generator | None = None

    def wrap(self, name: str, network: nn.Module) -> Callable[..., Any]:
        """What the copy of the pipeline calls in place of `network`."""
        usual = super().wrap(name, network)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.result is not None:  # after the loop
                return usual(*args, **kwargs)
            with outside_function_mode():
                made = recorded_call(name, network, args, kwargs)
                if self.loop is None:
                    made.returns(usual(*args, **kwargs))
                else:
                    made.returns(self._random_outputs(made))
                self._calls.append(made)
                return tree_unflatten(made.found, made.form)

        return call

    def follow(self, scheduler: Any) -> None:
        """Watch the steps of the copy's scheduler, and answer the last one."""
        self.scheduler = scheduler
        step = getattr(scheduler, "step", None)
        if step is None:
            return

        @functools.wraps(step)  # pipelines look at its signature
        def taken(*args: Any, **kwargs: Any) -> Any:
            with outside_function_mode():
                try:
                    return self._step(step, args, kwargs)
                except NotReplayable as why:
                    raise self._refusal(str(why)) from why

        vars(scheduler)["step"] = taken

    def check_reached(self, results: Sequence[Any], noise: Tensor | None) -> None:
        """Check that the sample is made of the solved state, and that gradients reach networks.

        Raises:
            UnsupportedError: it is not.

        """
        if self.result is None:
            raise self._refusal("its scheduler does not take its last step")
        sample = results[0]
        if bool(sample.isnan().any()) and not bool(self.result.isnan().any()):
            raise self._refusal("it uses more of its loop than the state at its end")
        assert self.loop is not None
        inside = {o.grad_fn for call in self.loop.first.calls for o in call.outputs}
        for calls in self.calls.values():
            calls.nodes = [node for node in calls.nodes if node not in inside]
        super().check_reached(results, noise)

    def _step(self, step: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        given = inspect.signature(step).bind(*args, **kwargs)
        if not {"model_output", "timestep", "sample"} <= given.arguments.keys():
            raise NotReplayable(f"{type(self.scheduler).__name__} steps by other arguments")
        if self.result is not None:
            raise NotReplayable("it goes on after its scheduler's last step")
        output, t, state = (given.arguments[k] for k in ("model_output", "timestep", "sample"))
        now = Step(output, t, state, self._calls)
        self._calls = []
        if self._expected is not None and not torch.equal(self._expected.to(state.dtype), state):
            raise NotReplayable("it changes the state between its scheduler's steps")
        if self.loop is None:
            self.loop = RecordedLoop(self.scheduler, now)
        else:
            self.loop.add(now)
        given.arguments |= {"model_output": output.detach(), "sample": state.detach()}
        with torch.no_grad():
            found = step(*given.args, **given.kwargs)
        self._expected = found[0].clone()
        return self._replaced(found, now) if self.loop.complete else found

    def _replaced(self, found: Any, last: Step) -> Any:
        """The scheduler's answer to its last step, with the solved state in it."""
        assert self.loop is not None
        moved = found[0]
        self.loop.end(moved)
        if self.native is None:
            raise Checked(self.loop)
        solved = solve(self.loop, self._network(self.loop), self.sampler, self.native, moved.dtype)
        self.result = solved

        def ours(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            same = value.shape == moved.shape and torch.equal(value, moved)
            return solved if same else torch.full_like(value, torch.nan)

        if isinstance(found, tuple):
            answer: Any = (solved, *(ours(value) for value in found[1:]))
        else:
            answer = type(found)(**{key: ours(value) for key, value in found.items()})
        # What the pipeline has of the random run is no number any more: should any of it get into
        # the sample, that is seen there.
        for tensor in (last.output, last.state, *(o for c in last.calls for o in c.outputs)):
            if tensor.is_floating_point() and 0 not in tensor.stride():
                tensor.detach().fill_(torch.nan)
        return answer

    def _random_outputs(self, call: Call) -> Any:
        assert self.loop is not None
        kind = [c for c in self.loop.first.calls if c.name == call.name and c.shapes == call.shapes]
        if not kind:
            raise self._refusal(f"it calls {call.name!r} otherwise after its first step")
        before = sum(c.name == call.name and c.shapes == call.shapes for c in self._calls)
        like = kind[min(before, len(kind) - 1)]
        found = [self._random_like(x) if isinstance(x, Tensor) else x for x in like.found]
        return tree_unflatten(found, like.form)

    def _random_like(self, tensor: Tensor) -> Tensor:
        """Normal numbers, in each row with a mean and a scale of their own."""
        if not tensor.is_floating_point():
            return tensor.detach().clone()
        if self._random is None or self._random.device != tensor.device:
            self._random = torch.Generator(tensor.device).manual_seed(0)
        draw = functools.partial(
            torch.randn, generator=self._random, device=tensor.device, dtype=torch.float32
        )
        rows = (len(tensor), *[1] * (tensor.ndim - 1)) if tensor.ndim else ()
        return ((draw(tensor.shape) + 0.3 * draw(rows)) * (0.7 * draw(rows)).exp()).to(tensor.dtype)

    def _network(self, loop: RecordedLoop) -> RecordedNetwork:
        """The network of this run, or of a former one of the same form."""
        form = loop.form
        settings = {id(network): settings_of(network) for network in form.networks}
        if any(call.settings != settings[id(call.network)] for call in loop.first.calls):
            raise NotReplayable("it changes its networks around their calls")
        # In the backward pass the networks are put back to what they are now.
        states = [ChangingParts(network).now() for network in form.networks]
        key = repr((form.calls, list(settings), hash(tuple(settings.values()))))
        if key not in self.known:
            if len(self.known) == KEPT:
                self.known.pop(next(iter(self.known)))
            self.known[key] = RecordedNetwork(
                form.networks, form.calls, form.times, lambda: _all_again(states)
            )
        return self.known[key]

    def _refusal(self, why: str) -> NotReplayable:
        return NotReplayable(
            f"{self.name} cannot be solved natively: {why}. Leave sampler=None, with a method that "
            'takes every pipeline, such as gradient="exact"'
        )


@contextmanager
def _all_again(states: Sequence[NetworkState]) -> Iterator[None]:
    with ExitStack() as stack:
        for state in states:
            stack.enter_context(state.again())
        yield
