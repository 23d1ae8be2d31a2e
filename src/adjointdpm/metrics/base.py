"""What a metric is, and the probe that every metric must pass before a run starts."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adjointdpm.errors import AdjointDPMError, InvalidInputError, MetricError
from adjointdpm.support.checks import check_int
from adjointdpm.support.process_state import fixed_draw
from adjointdpm.support.user_code import describe, user_code

Images = Float[Tensor, "batch 3 height width"]
Samples = Images | Float[Tensor, "batch frames 3 height width"]
Scores = Float[Tensor, " batch"]

# What a probe tells a metric that its pictures show, unless the caller knows better.
_PROMPTS = ("a photo of a red apple", "a drawing of a house by the sea")


class Metric(ABC):
    """A differentiable score of samples in [0, 1], one number each; lower is better.

    Samples are pictures `[B, 3, H, W]`, or videos `[B, F, 3, H, W]` if `takes_videos` is True. They
    come from the tasks as they are shown, within [0, 1]. A caller's own may leave it a little.
    """

    #: Height and width below which the metric cannot be computed, in pixels.
    smallest: int = 1

    #: −1 for a reward, whose score is negated here; reports show `sign` times the scores.
    sign: int = 1

    #: Whether samples may be videos.
    takes_videos: bool = False

    #: Whether a learned network scores, which pictures can please without getting better.
    hackable: bool = False

    @property
    def name(self) -> str:
        """How reports call this metric."""
        return type(self).__name__

    @property
    def asks_judge(self) -> bool:
        """Whether the bundled judge is part of it, which then cannot judge the result."""
        return False

    @abstractmethod
    def __call__(self, samples: Samples, /, prompts: Sequence[str] | None = None) -> Scores:
        """Score each sample.

        Args:
            samples: pictures or videos.
            prompts: what each of them was drawn for; None if that is not known.

        """

    def check_size(self, height: int, width: int) -> None:
        """Raise MetricError unless pictures of this size are large enough."""
        if min(height, width) < self.smallest:
            raise MetricError(
                f"metric {self.name} needs pictures of at least {self.smallest}×{self.smallest} "
                f"pixels, not {height}×{width}"
            )


@dataclass(frozen=True)
class FunctionMetric(Metric):
    """A user's own function as a metric.

    Args:
        function: samples -> `[B]`, lower is better. It gets the prompts too if it has a parameter
            `prompts`, or a second positional one without a default. An attribute `takes_videos`
            says that samples may be videos.
        label: its name in reports.

    """

    function: Callable[..., Tensor]
    label: str

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    @property
    def takes_videos(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the function says of itself."""
        return bool(getattr(self.function, "takes_videos", False))

    def __call__(self, samples: Samples, /, prompts: Sequence[str] | None = None) -> Scores:
        """Call the function as it is; `score` is for whoever does not trust it."""
        match self._passes_prompts:
            case "by name":
                return self.function(samples, prompts=prompts)
            case "second":
                return self.function(samples, prompts)
            case _:
                return self.function(samples)

    @functools.cached_property
    def _passes_prompts(self) -> str:
        """How the function gets the prompts: "by name", "second" or "not at all"."""
        called = self.function.forward if isinstance(self.function, nn.Module) else self.function
        try:
            signature = inspect.signature(called)
        except (TypeError, ValueError):  # some of those written in C have none
            return "not at all"
        if isinstance(called, functools.partial) and "prompts" in called.keywords:
            return "not at all"  # it has them already
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        others = list(signature.parameters.values())[1:]
        if any(other.name == "prompts" and other.kind in named for other in others):
            return "by name"
        second = others[0] if others else None
        if second is not None and second.kind in positional and second.default is second.empty:
            return "second"
        return "not at all"


def probe(
    metric: Metric,
    height: int = 64,
    width: int = 64,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    prompts: Sequence[str] = _PROMPTS,
    frames: int | None = None,
) -> None:
    """Call `metric` once on two smooth random samples and check its scores and its gradient.

    This costs one forward and backward pass of the metric. A metric that teaches nothing is then an
    error at once and not an hour later.

    Args:
        metric: what to check.
        height, width: of the samples that it will be given, in pixels.
        device, dtype: where and in which precision they will be; a model's are its `device` and
            `dtype`.
        prompts: what the samples are said to show, two of the run's own at best.
        frames: of each video; None probes with pictures.

    Raises:
        MetricError: it failed, returned another shape than [B] or values that are not finite, or no
            gradient but zero reaches the samples.

    """
    metric.check_size(height, width)
    check_int("frames", 1 if frames is None else frames, 1)
    if not prompts:
        raise MetricError("prompts=[] names nothing; give what the pictures show, two at best")
    _check_device(device)
    samples = _smooth_samples(height, width, frames).to(device, dtype).requires_grad_()
    with torch.enable_grad():
        scores = score(metric, samples, [prompts[0], prompts[-1]])
        if not scores.requires_grad:
            raise MetricError(
                f"metric {metric.name} blocks gradients (no_grad, detach, numpy or .item() "
                f"inside?); nothing could be learned from it"
            )
        try:
            (gradient,) = torch.autograd.grad(scores.sum(), samples, allow_unused=True)
        except AdjointDPMError:
            raise
        except Exception as error:
            raise MetricError(
                describe(f"metric {metric.name} failed in its backward pass", error)
            ) from error
    _check_gradient(metric, gradient)


def check_samples(metric: Metric, samples: Tensor) -> None:
    """Raise MetricError unless the metric takes samples of this shape."""
    videos = samples.ndim == 5 and samples.shape[2] == 3
    if videos and not metric.takes_videos:
        raise MetricError(
            f"metric {metric.name} scores pictures [B, 3, H, W], not videos "
            f"{tuple(samples.shape)}; score a frame of each, or use a metric with "
            f"takes_videos = True"
        )
    if not videos and (samples.ndim != 4 or samples.shape[1] != 3):
        raise MetricError(
            f"metric {metric.name} cannot score samples of shape {tuple(samples.shape)}; it takes "
            f"[B, 3, H, W]{', or videos [B, F, 3, H, W]' if metric.takes_videos else ''}"
        )


def score(
    metric: Metric, samples: Samples, prompts: Sequence[str] | None = None, draw: str | None = None
) -> Scores:
    """Call a metric, and check what it takes and returns. Everything that scores calls this.

    A metric of the user's gets copies: what it changes in place is its own.

    Args:
        metric: what scores.
        samples: pictures or videos.
        prompts: what each of them was drawn for.
        draw: fixes the random numbers that a metric of the user's draws; None lets them go on from
            call to call.

    Returns:
        A finite score for each sample, in float32 at least, on the samples' device.

    Raises:
        MetricError: the metric does not take such samples, failed, or returned something else than
            finite scores `[B]`.

    """
    check_samples(metric, samples)
    shape = f" on pictures {tuple(samples.shape)} in {samples.dtype} on {samples.device}"
    with fixed_draw(draw):
        if _is_the_users(metric):
            with user_code(f"metric {metric.name}", MetricError, on=shape):
                found = metric(samples.clone(), prompts=None if prompts is None else list(prompts))
        else:
            found = metric(samples, prompts=prompts)
    check_scores(metric, found, len(samples))
    return found.to(samples.device, torch.promote_types(found.dtype, torch.float32))


def check_scores(metric: Metric, scores: Any, batch: int) -> None:
    """Raise MetricError unless `scores` is a finite tensor `[batch]` of real numbers."""
    if not isinstance(scores, Tensor):
        inside = "; return the tensor alone" if isinstance(scores, tuple | list | dict) else ""
        raise MetricError(
            f"metric {metric.name} returned {type(scores).__name__}; it must return a tensor "
            f"[B]{inside}"
        )
    if scores.shape != (batch,):
        raise MetricError(
            f"metric {metric.name} returned shape {tuple(scores.shape)} for {batch} pictures; it "
            f"must return one score each, ({batch},)"
        )
    if not scores.is_floating_point():
        raise MetricError(
            f"metric {metric.name} returned {scores.dtype} scores; they must be floating-point "
            f"numbers, such as float32"
        )
    if scores.layout != torch.strided or scores.device.type == "meta":
        raise MetricError(
            f"metric {metric.name} returned scores of layout {scores.layout} on {scores.device}; "
            f"they must be a dense tensor that holds numbers"
        )
    if not bool(torch.isfinite(scores.detach()).all()):
        raise MetricError(
            f"metric {metric.name} returned NaN or infinite scores: {scores.detach().tolist()}"
        )


def _is_the_users(metric: Metric) -> bool:
    """Whether the code that scores does not come with this package."""
    return isinstance(metric, FunctionMetric) or not type(metric).__module__.startswith(
        "adjointdpm."
    )


def _check_device(device: torch.device | str) -> None:
    try:
        torch.device(device)
    except RuntimeError as error:
        raise InvalidInputError(
            f"device={device!r} is none that torch knows; name one such as cpu, cuda or cuda:1"
        ) from error


def _smooth_samples(height: int, width: int, frames: int | None) -> Tensor:
    """Two random samples, well inside [0, 1], so that an honest clamp does nothing."""
    count = 2 * (frames or 1)
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return smooth if frames is None else smooth.unflatten(0, (2, frames))


def _check_gradient(metric: Metric, gradient: Tensor | None) -> None:
    if gradient is None:
        raise MetricError(
            f"metric {metric.name} does not depend on the pictures by any differentiable path; "
            f"nothing could be learned from it"
        )
    if not bool(torch.isfinite(gradient).all()):
        raise MetricError(
            f"metric {metric.name} has gradients that are NaN or infinite; look for sqrt or log at "
            f"0 inside it"
        )
    if bool((gradient.flatten(1).abs().amax(1) == 0).any()):
        raise MetricError(
            f"metric {metric.name} has a gradient of zero (a clamp, rounding or threshold "
            f"inside?); nothing could be learned from it"
        )
