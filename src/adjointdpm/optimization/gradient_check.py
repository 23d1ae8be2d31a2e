"""How exact a run's gradients were, and what they cost."""

from collections.abc import Sequence

import torch

from adjointdpm.engine.gradients import AutogradMethod, GradientMethod, Truncated
from adjointdpm.engine.stats import stats
from adjointdpm.metrics import Metric, score
from adjointdpm.optimization.as_shown import as_shown
from adjointdpm.optimization.auto_agreement import unchanged
from adjointdpm.optimization.float16_scaling import GradientScale, uses_float16
from adjointdpm.optimization.renderer import LOOK, Renderer
from adjointdpm.variables import Example, Variable


def is_exact(gradient: GradientMethod) -> bool:
    """Whether the method returns the gradient of the sampler's own steps, to rounding."""
    return isinstance(gradient, AutogradMethod) and not isinstance(gradient, Truncated)


def gradient_error(
    render: Renderer, variable: Variable, metric: Metric, examples: Sequence[Example]
) -> list[dict[str, float | str | int]]:
    """Compare the renderer's gradient of the metric with the exact one, example by example.

    Returns:
        For each example `prompt`, `seed`, `cosine` and `relative_error` = |g − exact| / |exact|.

    """
    exact = render.with_gradient("exact")
    errors = []
    for example in examples:
        with unchanged(render):  # the run's own decisions are what is checked
            mine, reference = (
                _gradient(renderer, variable, metric, example) for renderer in (render, exact)
            )
        cosine = torch.nn.functional.cosine_similarity(mine, reference, dim=0).item()
        relative = ((mine - reference).norm() / reference.norm()).item()
        errors.append(
            {
                "prompt": example.prompt,
                "seed": example.seed,
                "cosine": cosine,
                "relative_error": relative,
            }
        )
    return errors


def gradient_cost(render: Renderer, variable: Variable, example: Example) -> float:
    """What a picture with its gradient costs, in pictures without.

    Costs are network calls, recomputations included; a VJP counts as two calls.
    """
    with stats() as plain:
        render.look([example], variable)
    with stats() as full:
        tensors = list(variable.tensors().values())
        torch.autograd.grad(render([example], variable).sum(), tensors, allow_unused=True)
    return (full.network_calls + 2 * full.vjps) / plain.network_calls


def _gradient(
    render: Renderer, variable: Variable, metric: Metric, example: Example
) -> torch.Tensor:
    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        images = render([example], variable)
        return images, score(metric, as_shown(images), [example.prompt], LOOK).sum()

    tensors = list(variable.tensors().values())
    gradients = GradientScale().gradients(draw, tensors, uses_float16(render.model))
    pairs = zip(tensors, gradients, strict=True)
    return (
        torch.cat(
            [
                (torch.zeros_like(t) if gradient is None else gradient).flatten()
                for t, gradient in pairs
            ]
        )
        .cpu()
        .double()
    )
