"""`sample`: from noise to data along the probability-flow ODE, and differentiable."""

import inspect
from collections.abc import Callable

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from adjointdpm.engine.denoiser import Denoiser
from adjointdpm.engine.gradients import Backprop, Checkpoint, GradientMethod
from adjointdpm.engine.gradients import resolve as resolve_gradient
from adjointdpm.engine.grids import check_grid, karras
from adjointdpm.engine.problem import Callback, Problem
from adjointdpm.engine.samplers import Euler, Sampler
from adjointdpm.engine.samplers import resolve as resolve_sampler
from adjointdpm.engine.schedules import NoiseSchedule
from adjointdpm.engine.torch_internals import in_functorch_transform
from adjointdpm.engine.tree import Tree, leaves, others, tree_map
from adjointdpm.errors import (
    DeviceError,
    InvalidInputError,
    InvalidTypeError,
    ScheduleError,
    ShapeError,
    UnsupportedError,
)


def sample(
    denoiser: Callable[..., Tensor],
    noise: Float[Tensor, "batch *shape"],
    *,
    schedule: NoiseSchedule,
    cond: Tree = None,
    steps: int = 50,
    grid: Real[Tensor, " times"] | None = None,
    sampler: Sampler | str = Euler(),  # noqa: B008 - frozen
    gradient: GradientMethod | str = Checkpoint(),  # noqa: B008 - holds sizes only
    callback: Callback | None = None,
) -> Float[Tensor, "batch *shape"]:
    """Solve the probability-flow ODE from `noise` to a sample x_0 that can be differentiated.

    Gradients reach `noise`, every tensor in `cond`, the parameters, guidance scale and `null_cond`
    of `denoiser`, `grid`, and tensors that the denoiser captures, wherever these require grad. What
    requires none costs nothing. Under `torch.no_grad` this is plain sampling.

    Args:
        denoiser: `denoiser(x, t, cond) -> tensor of x's shape`, t a float tensor `[B]` in the
            schedule's unit. A bare callable or module predicts epsilon. Wrap it in `Denoiser` for
            other predictions and for guidance.
        noise: `[B, …]`, floating point, unit variance. Sampling starts at `schedule.initial_scale *
            noise`; all state arithmetic is in its dtype.
        schedule: a `NoiseSchedule`.
        cond: None, a tensor, or nested tuples, lists and dicts of tensors, each with leading
            dimension B and on the device of `noise`.
        steps: N, the number of sampler steps on the default grid (`grids.karras`); not used when
            `grid` is given.
        grid: N + 1 strictly decreasing times in the schedule's unit, noise first, data last. It may
            require grad with `Checkpoint`, `Backprop` and `Auto`. At an entry of a table, where
            ρ(t) has a kink, the derivative is the one towards larger times. At a start without
            signal (flow matching at t = 1) it is that of the sampler's formula for that step.
        sampler: a `Sampler`, or its name.
        gradient: a `GradientMethod`, or its name ("exact", "adjoint", …).
        callback: called as `callback(step, t, x, denoised)` after every step (counted from 0) with
            the time and state that the step reached, and the x̂_0 it used. A `SamplingObserver`
            also sees the costates ∂L/∂x in the backward pass.

    Returns:
        x_0 in the shape, dtype and device of `noise`.

    Raises:
        AdjointDPMError: a subclass of it that names the wrong argument; before the network is
            called wherever possible.

    """
    if not isinstance(schedule, NoiseSchedule):
        raise InvalidTypeError(
            f"schedule={schedule!r} must be a NoiseSchedule, for example "
            f"NoiseSchedule.from_scheduler(pipe.scheduler)"
        )
    denoiser = denoiser if isinstance(denoiser, Denoiser) else Denoiser(denoiser)
    sampler, gradient = resolve_sampler(sampler), resolve_gradient(gradient)
    times = karras(schedule, steps) if grid is None else check_grid(grid, schedule)
    _check_noise(noise, denoiser)
    _check_cond(cond, noise)
    _check_callback(callback)
    denoiser.check_cond(cond, len(noise))
    _check_transforms([noise, *leaves(cond)], gradient)
    noise, cond = tree_map(_recordable, (noise, cond))
    plan = sampler.plan(schedule, times)
    plan.check_differentiable()
    check_prediction(
        denoiser,
        schedule,
        plan.network_calls[0].time.detach(),
        plan.network_calls[-1].time.detach(),
    )
    null_cond = tree_map(lambda tensor: _recordable(tensor.to(noise.device)), denoiser.null_cond)
    start = noise if schedule.initial_scale == 1 else schedule.initial_scale * noise
    problem = Problem(
        denoiser, schedule, sampler, plan, start, cond, null_cond, denoiser.guidance_scale, callback
    )
    return gradient.solve(problem)


def _check_callback(callback: Callback | None) -> None:
    called = "callback(step, t, x, denoised)"
    if callback is None:
        return
    if not callable(callback):
        raise InvalidTypeError(f"callback={callback!r} must be callable as {called}")
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # some builtins have no signature
        return
    try:
        signature.bind(0, 0.0, None, None)
    except TypeError:
        raise InvalidTypeError(
            f"the callback is called as {called}, and takes {signature}; change its parameters"
        ) from None


def _recordable(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy if it is an inference tensor, which autograd could not save."""
    return (
        tensor.clone()
        if tensor.is_inference()
        and torch.is_grad_enabled()
        and not torch.is_inference_mode_enabled()
        else tensor
    )


def _check_transforms(tensors: list[Tensor], gradient: GradientMethod) -> None:
    # Our autograd functions have no rules for torch.func.grad, vmap and jvp.
    wrapped = any(in_functorch_transform(tensor) for tensor in tensors)
    if wrapped and torch.is_grad_enabled() and not isinstance(gradient, Backprop):
        raise UnsupportedError(
            f"{gradient!r} cannot run within a torch.func transform; use Backprop() there, or "
            f"loss.backward() and torch.autograd.grad"
        )


def _check_noise(noise: Tensor, denoiser: Denoiser) -> None:
    if not isinstance(noise, Tensor):
        raise InvalidTypeError(f"noise must be a tensor [B, …], not {type(noise).__name__}")
    if noise.layout != torch.strided:
        raise InvalidTypeError(
            f"noise has layout {noise.layout}; it must be dense, as torch.randn makes it"
        )
    if not noise.is_floating_point():
        raise InvalidTypeError(
            f"noise has dtype {noise.dtype}; it must be floating point, as torch.randn makes it"
        )
    if noise.ndim == 0 or noise.numel() == 0:
        raise ShapeError(
            f"noise has shape {tuple(noise.shape)}; it must be [B, …] with at least one number"
        )
    weight = (
        next(denoiser.network.parameters(), None)
        if isinstance(denoiser.network, nn.Module)
        else None
    )
    if weight is not None and weight.device != noise.device:
        raise DeviceError(
            f"noise is on {noise.device} and the denoiser on {weight.device}; move one of them"
        )
    if noise.device.type == "meta":
        raise DeviceError("noise is on the meta device, where tensors hold no numbers")
    if not bool(torch.isfinite(noise.detach()).all()):
        raise InvalidInputError("noise holds NaN or infinite values")


def _check_cond(cond: Tree, noise: Tensor) -> None:
    wrong = others(cond)
    if wrong:
        raise InvalidTypeError(
            "cond must be None, a tensor, or nested tuples, lists and dicts of tensors; it holds "
            f"{wrong[0]!r:.60}"
        )
    for tensor in leaves(cond):
        if tensor.ndim == 0 or len(tensor) != len(noise):
            raise ShapeError(
                f"cond holds a tensor of shape {tuple(tensor.shape)}; its leading dimension must "
                f"be the batch of noise, {len(noise)}"
            )
        if tensor.device != noise.device:
            raise DeviceError(
                f"cond holds a tensor on {tensor.device}, but noise is on {noise.device}; move one "
                f"of them"
            )


def check_prediction(
    denoiser: Denoiser, schedule: NoiseSchedule, first: Tensor, last: Tensor
) -> None:
    """Check that what the network predicts says something at its first and last time.

    Raises:
        ScheduleError: it does not.

    """
    if denoiser.prediction == "epsilon" and bool(schedule.alpha(first) == 0):
        raise ScheduleError(
            f"the signal is 0 at t = {first.item():g} (zero terminal SNR), where a prediction of "
            "epsilon says nothing about x_0; start the grid below that time, or use a network "
            f"that predicts v, the sample or the flow"
        )
    if denoiser.prediction == "sample" and bool(schedule.sigma(last) == 0):
        raise ScheduleError(
            f"this sampler calls the network at t = {last.item():g}, where there is no noise left "
            "and a predicted sample says nothing about epsilon; end the grid above that time, or "
            f"use Euler or Midpoint"
        )
