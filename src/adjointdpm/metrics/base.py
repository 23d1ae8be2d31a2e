"""What a metric is, and the probe that every metric must pass before a run starts."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from adjointdpm.errors import MetricError

Images = Float[Tensor, "batch 3 height width"]
Scores = Float[Tensor, " batch"]


class Metric(ABC):
    """A differentiable score of pictures, `[B, 3, H, W]` in [0, 1] -> `[B]`, lower is better.

    During optimisation the pictures are not clamped, since a clamp would zero gradients: values may
        leave [0, 1] a little.
    """

    #: Height and width below which the metric cannot be computed, in pixels.
    smallest: int = 1

    @property
    def name(self) -> str:
        """How reports call this metric."""
        return type(self).__name__

    @property
    def asks_judge(self) -> bool:
        """Whether the bundled judge is part of it, which then cannot judge the result."""
        return False

    @abstractmethod
    def __call__(self, images: Images) -> Scores:
        """Score each picture."""

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
        function: images `[B, 3, H, W]` -> `[B]`, lower is better.
        label: its name in reports.

    """

    function: Callable[[Tensor], Tensor]
    label: str

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    def __call__(self, images: Images) -> Scores:
        """Call the function."""
        return self.function(images)


def probe(
    metric: Metric,
    height: int = 64,
    width: int = 64,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Call `metric` once on two smooth random pictures and check what comes back, and its gradient.

    Costs one forward and backward pass of the metric, so that a metric that teaches nothing is an
    error at once and not an hour later.

    Args:
        metric: what to check.
        height, width: of the pictures that it will be given, in pixels.
        device, dtype: where and in which precision they will be; a model's are its `device` and
            `dtype`.

    Raises:
        MetricError: it failed, returned another shape than [B] or values that are not finite, or no
            gradient but zero reaches the pictures.

    """
    metric.check_size(height, width)
    generator = torch.Generator().manual_seed(0)
    coarse = (
        torch.rand(2, 3, 8, 8, generator=generator) * 0.5 + 0.25
    )  # well inside [0, 1], so that an honest clamp does nothing
    images = (
        torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        .to(device, dtype)
        .requires_grad_()
    )
    with torch.enable_grad():
        try:
            scores = metric(images)
        except Exception as error:
            kind = f"{tuple(images.shape)} in {images.dtype} on {images.device}"
            raise MetricError(
                f"metric {metric.name} failed on pictures {kind}: {type(error).__name__}: {error}"
            ) from error
        check_scores(metric, scores, len(images))
        if not scores.requires_grad:
            raise MetricError(
                f"metric {metric.name} blocks gradients (no_grad, detach, numpy or .item() "
                f"inside?); nothing could be learned from it"
            )
        (gradient,) = torch.autograd.grad(scores.sum(), images, allow_unused=True)
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


def check_scores(metric: Metric, scores: object, batch: int) -> None:
    """Raise MetricError unless `scores` is a finite tensor `[batch]`."""
    if not isinstance(scores, Tensor):
        raise MetricError(
            f"metric {metric.name} returned {type(scores).__name__}; it must return a tensor [B]"
        )
    if scores.shape != (batch,):
        raise MetricError(
            f"metric {metric.name} returned shape {tuple(scores.shape)} for {batch} pictures; it "
            f"must return one score each, ({batch},)"
        )
    if not bool(torch.isfinite(scores.detach()).all()):
        raise MetricError(
            f"metric {metric.name} returned NaN or infinite scores: {scores.detach().tolist()}"
        )
