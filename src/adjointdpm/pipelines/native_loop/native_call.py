"""One call of any diffusers pipeline, by its own loop or by a native solve in place of it."""

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from adjointdpm.engine.gradients import Auto, AutogradMethod, GradientMethod
from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.engine.samplers import Sampler
from adjointdpm.engine.samplers import resolve as resolve_sampler
from adjointdpm.pipelines.native_loop.native_solve import conditioning, repeating_sampler
from adjointdpm.pipelines.native_loop.noise_levels import NotReplayable
from adjointdpm.pipelines.native_loop.recorded_loop import RecordedLoop
from adjointdpm.pipelines.native_loop.recorded_network import RecordedNetwork
from adjointdpm.pipelines.native_loop.recorded_run import Checked, RecordedRun
from adjointdpm.pipelines.own_call.pipeline_call import call_pipeline

WATCHING = ("callback_on_step_end", "callback")
Known = MutableMapping[str, RecordedNetwork]


def call_by_any_method(
    pipe: Any,
    arguments: Mapping[str, Any],
    noise: Tensor | None,
    gradient: GradientMethod | str,
    output: str,
    sampler: Sampler | str | None,
    known: Known,
) -> Tensor:
    """`call_pipeline`, with every gradient method, and with native samplers.

    A native sampler takes the steps of the times at which the pipeline's scheduler would step for
    these arguments. A method that solves an ODE itself and is given no sampler takes the native one
    that repeats the scheduler. `Auto` is exact where there is none.

    Args:
        pipe, arguments, noise, gradient, output: as for `call_pipeline`.
        sampler: a native sampler or its name; None steps by the pipeline's scheduler.
        known: the networks of former calls.

    Raises:
        AdjointDPMError: as `call_pipeline`.
        NotReplayable: a native solve is asked for, and the pipeline's loop is more than a denoiser,
            a schedule and conditioning.

    """
    method = resolve_gradient(gradient)
    if sampler is None and isinstance(method, AutogradMethod):
        return call_pipeline(pipe, arguments, noise, method, output)
    numbers = _RandomNumbers(pipe, arguments)
    try:
        run = _run(pipe, arguments, sampler, method, known)
        return call_pipeline(pipe, arguments, noise, output=output, networks=run)
    except NotReplayable:
        if sampler is not None or not isinstance(method, Auto):
            raise
    numbers.put_back()
    return call_pipeline(pipe, arguments, noise, method.exact, output)


def native_support(
    pipe: Any, arguments: Mapping[str, Any], noise: Tensor | None = None
) -> tuple[bool | str, bool | str]:
    """Whether a call can be solved natively, and without naming a sampler; or why not.

    The pipeline runs up to the end of its loop, and its networks in the first step only.
    """
    try:
        loop = _recorded(pipe, arguments, noise)
        conditioning(loop)
    except NotReplayable as refusal:
        return str(refusal), str(refusal)
    try:
        repeating_sampler(loop)
    except NotReplayable as refusal:
        return True, str(refusal)
    return True, True


def _recorded(pipe: Any, arguments: Mapping[str, Any], noise: Tensor | None) -> RecordedLoop:
    _check_watching(pipe, arguments)
    run = RecordedRun(type(pipe).__name__, None, None, {})
    try:
        with torch.no_grad():
            call_pipeline(pipe, arguments, noise, networks=run)
    except Checked as checked:
        return checked.loop
    raise NotReplayable(f"{type(pipe).__name__} does not take its scheduler's last step")


def _run(
    pipe: Any,
    arguments: Mapping[str, Any],
    sampler: Sampler | str | None,
    method: GradientMethod,
    known: Known,
) -> RecordedRun:
    _check_watching(pipe, arguments)
    native = None if sampler is None else resolve_sampler(sampler)
    return RecordedRun(type(pipe).__name__, native, method, known)


def _check_watching(pipe: Any, arguments: Mapping[str, Any]) -> None:
    for name in WATCHING:
        if arguments.get(name) is not None:
            raise NotReplayable(
                f"{type(pipe).__name__}: {name} is called in the pipeline's loop, in whose place a "
                f'native solve runs; leave it out, or sampler=None with gradient="exact"'
            )


class _RandomNumbers:
    """Where the generators stand from which a call of a pipeline draws."""

    def __init__(self, pipe: Any, arguments: Mapping[str, Any]) -> None:
        given = [x for x in tree_leaves(dict(arguments)) if isinstance(x, torch.Generator)]
        device = torch.device(pipe._execution_device)
        if device.type == "cuda":
            given.append(torch.cuda.default_generators[device.index or 0])
        self._generators = [torch.default_generator, *given]
        self._then = [generator.get_state() for generator in self._generators]

    def put_back(self) -> None:
        """Let the next call draw the same numbers."""
        for generator, state in zip(self._generators, self._then, strict=True):
            generator.set_state(state)
